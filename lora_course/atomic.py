"""Write files so that a reader, or a machine that lost power, sees the old content or the new, never half of it."""

import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any


def replace_files(writers: Mapping[Path, Callable[[Path], Any]]) -> None:
    """Create or replace each path by what `writer(temporary_path)` writes.

    All are written beside their targets and flushed to disk before the first is renamed into place, so that a full
    disk or an error in a writer leaves every old file as it was. Raises what the writer or the disk raises.
    """
    temporaries: dict[Path, Path] = {}
    try:
        for path, write in writers.items():
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            os.close(descriptor)
            temporaries[path] = Path(name)
            write(temporaries[path])
            with open(name, "rb+") as file:
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())  # mkstemp makes it private to the user
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
        for folder in {path.parent for path in writers} if os.name == "posix" else ():
            _flush_folder(folder)  # a rename survives a power cut only once the folder is on disk
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def write_files(contents: Mapping[Path, str | bytes]) -> None:
    """Create or replace each path by this text, in UTF-8 and with its own line ends, or by these bytes."""
    data = {path: content.encode() if isinstance(content, str) else content for path, content in contents.items()}
    replace_files({path: partial(_fill, content=content) for path, content in data.items()})


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
