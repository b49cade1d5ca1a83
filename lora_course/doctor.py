"""What the lessons need of a machine, checked one finding at a time.

    facts (versions, bytes, folders, a kernel's answer)  ->  a judgement: Finding(level, title, detail)
Each judgement is a function of facts that are handed to it, so a test can hand it a full disk. `diagnose` gathers
the facts of this machine and asks every judgement; one that breaks is itself a finding. Levels: "ok"; "warn", the
lessons run but something differs or is to be done; "fail", they will not run.
"""

from __future__ import annotations

import ast
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lora_course.device import choose_device, describe_device

OLDEST_PYTHON = (3, 11)
MEMORY_WANTED, MEMORY_NEEDED = 4e9, 1e9  # bytes free; a lesson says what it takes, most stay below the first
DISK_SPARE = 1e9  # bytes that should stay free for checkpoints and the system
INSTALL = "`.venv/bin/pip install -c constraints.txt -e .` in the checkout"


@dataclass(frozen=True)
class Finding:
    """level: "ok", "warn" or "fail". title: what was looked at. detail: what was found and, if not ok, what to do."""

    level: str
    title: str
    detail: str


def diagnose(checkout: Path) -> list[Finding]:
    """Every finding about this machine; `checkout` is the folder that may hold constraints.txt."""
    checks: dict[str, Callable[[], Finding | list[Finding]]] = {
        "Python": lambda: judge_python(sys.version_info[:3]),
        "torch": lambda: judge_torch(torch.__version__, choose_device(), shutil.which("nvidia-smi") is not None),
        "profile": _profile,
        "memory": _memory,
        "disk": _disk,
        "folders": _folders,
        "kernel": _kernel,
        "assets": _assets,
        "packages": lambda: judge_packages(importlib.metadata.requires("lora_course") or [], installed_versions()),
        "versions": lambda: judge_versions(_read(checkout / "constraints.txt"), installed_versions()),
    }
    findings: list[Finding] = []
    for title, check in checks.items():
        try:
            found = check()
        except Exception as error:
            found = Finding("fail", title, f"could not be checked: {type(error).__name__}: {error}")
        findings += found if isinstance(found, list) else [found]
    return findings


def judge_python(version: tuple[int, int, int]) -> Finding:
    """At least the oldest Python that the course supports."""
    shown = ".".join(map(str, version))
    if version < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return Finding("fail", "Python", f"{shown} is too old: make .venv again with Python {oldest} or newer")
    return Finding("ok", "Python", f"{shown}, {sys.executable}")


def judge_torch(version: str, device: torch.device, has_nvidia: bool) -> Finding:
    """The device computes; and an NVIDIA card, if there is one, is the device."""
    ones = torch.ones(64, 64, device=device)
    if (total := (ones @ ones).sum().item()) != 64**3:
        return Finding("fail", "torch", f"{version} on {device} adds {64**3} ones up to {total}: install torch anew")
    shown = f"{version}, {describe_device(device)}"
    if device.type == "cpu" and has_nvidia:
        return Finding("warn", "torch", f"{shown}; an NVIDIA driver is installed, but this torch cannot use it: "
                                        "install a CUDA build of the same version, or update the driver")
    return Finding("ok", "torch", shown)


def judge_memory(available: float, total: float) -> Finding:
    """available, total: bytes."""
    shown = f"{available / 1e9:.1f} GB free of {total / 1e9:.1f} GB"
    if available < MEMORY_NEEDED:
        return Finding("fail", "memory", f"{shown}: no lesson runs below {MEMORY_NEEDED / 1e9:.0f} GB; "
                                         "close other programs and notebooks")
    if available < MEMORY_WANTED:
        return Finding("warn", "memory", f"{shown}: each lesson says what it needs; close other programs if it is more")
    return Finding("ok", "memory", shown)


def judge_disk(free: float, to_come: float, folder: Path) -> Finding:
    """free: bytes where `folder` is or will be; to_come: bytes that `lora-course fetch` still needs there."""
    shown = f"{free / 1e9:.1f} GB free at {folder}"
    elsewhere = "free some, or set LORA_COURSE_CACHE to a folder on a larger disk"
    if free < to_come:
        return Finding("fail", "disk", f"{shown}, and `lora-course fetch` needs {to_come / 1e9:.1f} GB: {elsewhere}")
    if free < to_come + DISK_SPARE:
        return Finding("warn", "disk", f"{shown}, of which `lora-course fetch` needs {to_come / 1e9:.1f} GB: "
                                       f"little is left for checkpoints; {elsewhere}")
    return Finding("ok", "disk", shown)


def judge_folder(title: str, folder: Path, variable: str) -> Finding:
    """Whether a file can be made in `folder`, or in what exists of its parents if it is not there yet."""
    existing = existing_part(folder)
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
    except OSError as error:
        return Finding("fail", title, f"{folder} cannot be written ({error.strerror}): allow it, or set {variable} "
                                      "to a folder of yours")
    return Finding("ok", title, f"{folder} can be written")


def judge_kernel(prefix: str, expected: str) -> Finding:
    """prefix, expected: sys.prefix of the kernel that notebooks get, and of this Python."""
    if Path(prefix).resolve() != Path(expected).resolve():
        return Finding("fail", "kernel", f"python3 starts the Python of {prefix}, not of {expected}: remove that "
                                         "kernel (`jupyter kernelspec list` says where it is), or unset JUPYTER_PATH")
    return Finding("ok", "kernel", "python3 starts, with this Python")


def judge_assets(statuses: Iterable) -> list[Finding]:
    """One finding for each AssetStatus."""
    return [
        Finding("ok", f"asset {status.name}", f"{status.bytes / 1e6:.0f} MB in {status.path}")
        if status.present
        else Finding("warn", f"asset {status.name}", "not here yet: run `lora-course fetch`")
        for status in statuses
    ]


def judge_packages(requirements: Iterable[str], installed: Mapping[str, str]) -> Finding:
    """Every requirement of the package itself, extras left out, is installed and in range."""
    wrong, count = [], 0
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        version = installed.get(canonicalize_name(requirement.name))
        if version is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, not {requirement.specifier}")
    if wrong:
        return Finding("fail", "packages", f"{'; '.join(wrong)}: run {INSTALL}")
    return Finding("ok", "packages", f"all {count} that the course imports are installed")


def judge_versions(constraints: str | None, installed: Mapping[str, str]) -> Finding:
    """constraints: the text of constraints.txt, None where there is none. Only what is installed is compared."""
    if constraints is None:
        return Finding("warn", "versions", "no constraints.txt beside the package (it is in the checkout, where "
                                           "`pip install -e .` is run): versions not compared with the tested ones")
    pins = [pin for pin in read_pins(constraints) if canonicalize_name(pin.name) in installed]
    different = []
    for pin in pins:
        version = installed[canonicalize_name(pin.name)]
        if not pin.specifier.contains(version, prereleases=True):
            different.append(f"{pin.name} {version} (tested {str(pin.specifier).removeprefix('==')})")
    if different:
        shown = ", ".join(different[:5]) + (f" and {len(different) - 5} more" if len(different) > 5 else "")
        return Finding("warn", "versions", f"not those that were tested: {shown}: run {INSTALL}")
    return Finding("ok", "versions", f"{len(pins)} packages, each as tested")


def read_pins(constraints: str) -> list[Requirement]:
    """The requirements of a constraints file that hold on this machine, comments left out."""
    lines = (line.split("#")[0].strip() for line in constraints.splitlines())
    pins = [Requirement(line) for line in lines if line]
    return [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]


def installed_versions() -> dict[str, str]:
    """Normalised name -> version of every distribution that this Python finds; the first found counts."""
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        if name := distribution.metadata["Name"]:
            versions.setdefault(canonicalize_name(name), distribution.version)
    return versions


def kernel_prefix() -> str:
    """Starts the kernel that notebooks ask for, python3, and returns its sys.prefix."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=120, stderr=subprocess.DEVNULL)
    try:
        asked = {"prefix": "__import__('sys').prefix"}
        reply = client.execute("", silent=True, user_expressions=asked, reply=True, timeout=120)
        return ast.literal_eval(reply["content"]["user_expressions"]["prefix"]["data"]["text/plain"])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def existing_part(folder: Path) -> Path:
    """`folder`, or the nearest of its parents that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _folders() -> list[Finding]:
    from lora_course.assets.pinned import cache_folder
    from lora_course.teaching.progress import progress_folder

    return [
        judge_folder("cache folder", cache_folder(), "LORA_COURSE_CACHE"),
        judge_folder("data folder", progress_folder().absolute(), "LORA_COURSE_DATA"),
    ]


def _kernel() -> Finding:
    try:
        return judge_kernel(kernel_prefix(), sys.prefix)
    except (LookupError, RuntimeError) as error:  # no kernel of that name is a KeyError; one that dies a RuntimeError
        return Finding("fail", "kernel", f"python3 does not start ({error}): run {INSTALL}, and if that does not help "
                                         f"`{sys.executable} -m ipykernel install --sys-prefix`")


def _profile() -> Finding:
    from lora_course.teaching.profiles import current_profile

    try:
        return Finding("ok", "profile", f"{current_profile()} (LORA_COURSE_PROFILE may choose another)")
    except ValueError as error:
        return Finding("fail", "profile", str(error))


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    return judge_memory(memory.available, memory.total)


def _disk() -> Finding:
    from lora_course.assets.catalogue import ASSETS
    from lora_course.assets.pinned import cache_folder, is_present

    to_come = sum(asset.needed_bytes for asset in ASSETS if not is_present(asset))
    return judge_disk(shutil.disk_usage(existing_part(cache_folder())).free, to_come, cache_folder())


def _assets() -> list[Finding]:
    from lora_course.assets import asset_status

    return judge_assets(asset_status())


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
