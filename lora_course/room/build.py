"""The folder for a room without a network:

    wheels/       the course and every package it needs, for machines like this one
    assets/       models and data, finished: a cache folder
    course/       the notebooks as their sources build them, the solutions, the constraints
    install.py, README.txt, room.json       how others install from it, and for which kind of machine it is
All of it is made beside its place, in FOLDER.part, and renamed at the end: what is called FOLDER is complete.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from lora_course import assets
from lora_course.assets.pinned import megabytes
from lora_course.assets.store import copy_finished
from lora_course.room import install

WHEELS_AT_LEAST = 500_000_000  # bytes, with the CPU build of torch
README = """Learn to fine-tune language models cheaply: a course in notebooks. No network is needed.

1. Have Python {python} ({system}, {processor}).
2. In this folder:   {python_name} install.py
3. Do what it says at the end.

It copies the notebooks to lora_course in your home (or to the folder that you name after install.py), makes an
environment there from wheels/, and copies models and data from assets/ to your cache: about {size} in all.
This folder itself stays as it is, and may be read-only.

By hand:   {python_name} -m venv ENV
           ENV/bin/pip install --no-index --find-links wheels -c course/constraints.txt lora_course
           copy course/ to where you want to work, go there, and
           LORA_COURSE_CACHE=(this folder)/assets ENV/bin/lora-course lab
"""


class RoomError(RuntimeError):
    """The folder could not be made; nothing half-made was left. The message says why and what to do."""


@dataclass(frozen=True)
class Room:
    """What was made. wheels: how many; sizes in bytes."""

    folder: Path
    wheels: int
    wheel_bytes: int
    asset_bytes: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.wheels} wheels ({megabytes(self.wheel_bytes)}), models and data "
            f"({megabytes(self.asset_bytes)}), made in {self.seconds:.0f} s. Others run install.py in it; "
            "README.txt says how."
        )


def build_room(root: Path, folder: Path, say: Callable[[str], None] = lambda text: None) -> Room:
    """Make `folder` from the clone at `root`. The packages are those of constraints.txt, fetched through pip with your
    settings; models and data come from the cache, and are fetched if they are missing.

    Raises RoomError if the folder is there already, the disk is too small, or something cannot be fetched.
    """
    began, folder = perf_counter(), Path(folder).absolute()
    for needed in ("pyproject.toml", "constraints.txt"):
        if not (root / needed).is_file():
            raise RoomError(f"{root} has no {needed}: run this command in a clone of the repository")
    if folder.exists():
        raise RoomError(f"{folder} is there already and stays as it is: name a new folder, or move it away")
    part = folder.with_name(f"{folder.name}.part")
    try:
        part.mkdir(parents=True)
    except FileExistsError:
        raise RoomError(
            f"{part} is there: another run is at work, or one was killed. If none is running, delete it and try again"
        ) from None
    except OSError as error:
        raise RoomError(f"{folder} cannot be made: {error}") from error
    try:
        made = _fill(root, part, say)
        os.replace(part, folder)
    except OSError as error:
        raise RoomError(_explained(error, folder)) from error
    except assets.AssetError as error:
        raise RoomError(str(error)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)  # not there any more if all went well
    return Room(folder, *made, perf_counter() - began)


def _fill(root: Path, part: Path, say: Callable[[str], None]) -> tuple[int, int, int]:
    statuses = assets.fetch()
    asset_bytes = sum(status.bytes for status in statuses)
    if shutil.disk_usage(part).free < asset_bytes + WHEELS_AT_LEAST:
        raise OSError(errno.ENOSPC, "not enough free space")
    say("collecting packages (minutes)")
    collect_wheels(root, part / "wheels")
    say("copying models and data")
    for status in statuses:
        copy_finished(status.path, part / "assets" / status.path.name)
    say("building notebooks")
    copy_course(root, part / "course")
    wheels = [path.stat().st_size for path in (part / "wheels").glob("*.whl")]
    shutil.copyfile(install.__file__, part / "install.py")
    kind = install.machine()
    (part / "room.json").write_text(json.dumps(kind, indent=1) + "\n", encoding="utf-8")
    name, size = "py" if os.name == "nt" else "python3", megabytes(5 * sum(wheels) + asset_bytes)
    (part / "README.txt").write_text(README.format(**kind, python_name=name, size=size), encoding="utf-8")
    return len(wheels), sum(wheels), asset_bytes


def collect_wheels(root: Path, target: Path) -> None:
    """The course's own wheel and all that it needs, built where there is none to download. Raises RoomError, OSError
    for a full disk."""
    command = [sys.executable, "-P", "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--wheel-dir", str(target), "-c", str(root / "constraints.txt"), str(root)]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if run.returncode:
        said = (run.stderr or run.stdout).strip()
        if "no space left" in said.lower() or "errno 28" in said.lower():
            raise OSError(errno.ENOSPC, "pip: no space left")
        lines = "\n".join(f"  pip: {line}" for line in said.splitlines()[-5:])
        raise RoomError(
            "pip could not collect the packages. Check the network and pip's settings (`python -m pip config list`: "
            f"proxy, mirror, no-index), then try again: what pip has downloaded is in its cache.\n{lines}"
        )


def copy_course(root: Path, target: Path) -> None:
    """What a clone has for learners. Notebooks are built from their sources, so that nobody's answers travel along."""
    import nbformat

    from lora_course.teaching.authoring import notebook_for
    from lora_course.teaching.source import lesson_paths, read_lesson

    (target / "notebooks").mkdir(parents=True)
    for path in lesson_paths(root):
        lesson = read_lesson(path, root)
        nbformat.write(notebook_for(lesson, student=True), target / "notebooks" / lesson.student_path.name)
    ours = [path for kind in ("*.py", "*.ipynb", "*.md") for path in sorted((root / "solutions").glob(kind))]
    for path in [*ours, *root.glob("*.md"), root / "constraints.txt", *root.glob("LICENSE")]:
        place = target / path.relative_to(root)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)


def _explained(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full: where {folder} is to be, about {megabytes(2 * WHEELS_AT_LEAST)} must be free, several "
            "gigabytes with a CUDA build of torch. Nothing half-made was kept"
        )
    return f"{folder} cannot be made: {error}. Nothing half-made was kept"
