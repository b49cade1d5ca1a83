"""What a learner's process may reach: Linux namespaces where permitted, resource limits wherever there are any.

    in_namespaces(command)                  the same command without network, alone among its processes
    close_off(work, hidden)                 inside: every file read-only, `hidden` folders and credentials empty
    restrict(limits)                        in the child that runs an answer, before it does
No tool but util-linux's `unshare` is used, and no rights but the user's own.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

UNSHARE = ("--user", "--map-root-user", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc")
MIB = 1 << 20
KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "PYTHONPATH", "LORA_COURSE_CACHE")
CREDENTIALS = (".ssh", ".gnupg", ".aws", ".azure", ".config", ".docker", ".kube", ".netrc", ".git-credentials")
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, READ_ONLY, MS_BIND, MNT_DETACH = 442, -100, 0x8000, 1, 4096, 2
NO_NEW_PRIVILEGES, DROP_BOUND, SUBREAPER = 38, 24, 36
REAL_HOME = "LORA_COURSE_REAL_HOME"
WORK_DISK = 64  # MiB, for caches that modules make when they are imported


@dataclass(frozen=True)
class Limits:
    """seconds: wall clock for one answer; memory: MiB beyond what the process has when it starts; output: bytes that
    it may print; processes: how many it may be at once; disk: MiB that it may write."""

    seconds: float = 60.0
    memory: int = 4096
    output: int = 1 << 20
    processes: int = 32
    disk: int = 256


def in_namespaces(command: list[str]) -> list[str] | None:
    """The same command without network and alone among its processes; None where there is no tool for that. Whether
    this machine permits it is seen when it starts."""
    tool = shutil.which("unshare") if sys.platform == "linux" else None
    return [tool, *UNSHARE, "--", *command] if tool else None


def scrubbed_environment(home: Path) -> dict[str, str]:
    """What a grading process is told: where Python finds things, and nothing that is secret."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    if "LORA_COURSE_CACHE" not in kept:
        from lora_course.assets.pinned import cache_folder

        kept["LORA_COURSE_CACHE"] = str(cache_folder())
    folder = str(home)
    return kept | {
        REAL_HOME: os.path.expanduser("~"),
        "HOME": folder, "USERPROFILE": folder, "TMPDIR": folder, "TEMP": folder, "TMP": folder,
        "XDG_CACHE_HOME": folder, "MPLCONFIGDIR": folder, "LORA_COURSE_DATA": folder, "HF_HOME": folder,
        "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
        "LORA_COURSE_PROFILE": "smoke", "MPLBACKEND": "Agg", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1",
        "PYTHONNOUSERSITE": "1", "PYTHONHASHSEED": "0",
    }  # fmt: skip


class _Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "namespace")]


def close_off(work: Path, hidden: list[Path]) -> None:
    """Inside the namespaces: makes every file read-only, empties what is hidden, and puts fresh memory on `work`.

    Raises OSError where the kernel refuses.
    """
    home = Path(os.environ.pop(REAL_HOME))
    for path in [*hidden, *(home / name for name in CREDENTIALS)]:
        if path.is_dir() and not _needed(path):
            _mount("none", path, "tmpfs", 0, "size=64k")
        elif path.is_file():
            _mount("/dev/null", path, None, MS_BIND, None)
    _set_read_only(Path("/"), True, AT_RECURSIVE)
    fresh_folder(work, WORK_DISK)


def writable(work: Path, yes: bool) -> None:
    """Whether the runner's own folder can be written: while it loads the lesson's modules, and at no other time."""
    _set_read_only(work, not yes, 0)


def fresh_folder(folder: Path, disk: int) -> None:
    """An empty memory-backed folder of at most `disk` MiB, mounted on `folder`."""
    _mount("none", folder, "tmpfs", 0, f"size={disk}m,mode=700")


def drop_folder(folder: Path) -> None:
    _call("umount2", os.fsencode(folder), MNT_DETACH)


def adopt_orphans() -> None:
    """On Linux, what a child leaves running becomes ours, so that it can be found and killed."""
    if sys.platform == "linux":
        _call("prctl", SUBREAPER, 1, 0, 0, 0)


def _needed(path: Path) -> bool:
    """Whether Python itself, or this package, lies in that folder."""
    places = [Path(__file__), Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable)]
    places += [Path(entry) for entry in sys.path if entry]
    return any(place.resolve().is_relative_to(path.resolve()) for place in places)


def restrict(limits: Limits, isolated: bool) -> None:
    """Limits and rights of the process that calls this, for good. Does what the platform can."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows; the wall clock and the memory watch remain
        return
    wanted = {
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": int(limits.seconds) + 5,
        "RLIMIT_FSIZE": limits.disk * MIB,
        "RLIMIT_NOFILE": 256,
    }
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        wanted["RLIMIT_AS"] = pages * resource.getpagesize() + limits.memory * MIB
        wanted["RLIMIT_NPROC"] = _tasks_of_this_user() + limits.processes
    for name, value in wanted.items():
        hard = resource.getrlimit(getattr(resource, name))[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(getattr(resource, name), (value, value))
    if sys.platform == "linux":
        _call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if isolated:
        _drop_capabilities()


def _tasks_of_this_user() -> int:
    import psutil

    user, count = os.getuid(), 0
    for process in psutil.process_iter(["uids", "num_threads"]):
        uids = process.info["uids"]
        count += process.info["num_threads"] or 0 if uids and uids.real == user else 0
    return count


def _drop_capabilities() -> None:
    """Root inside the namespace could undo its mounts; without capabilities it cannot."""
    for number in range(64):
        try:
            _call("prctl", DROP_BOUND, number, 0, 0, 0)
        except OSError:
            break
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)())


def _set_read_only(path: Path, read_only: bool, flags: int) -> None:
    wanted = _Attributes(set=READ_ONLY) if read_only else _Attributes(clear=READ_ONLY)
    _call("syscall", MOUNT_SETATTR, AT_FDCWD, os.fsencode(path), flags, ctypes.byref(wanted), ctypes.sizeof(wanted))


def _mount(source: str, target: Path, kind: str | None, flags: int, data: str | None) -> None:
    texts = [None if text is None else text.encode() for text in (source, kind, data)]
    _call("mount", texts[0], os.fsencode(target), texts[1], flags, texts[2])


def _call(name: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
