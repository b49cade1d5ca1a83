"""To begin with: `doctor`, `fetch`, `room` and `lab`."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_course.cli.common import PACKAGE, Command, course_folder, problem, with_sources

START = Path("notebooks") / "00_start.ipynb"
LOADERS = {"encoder": "load_encoder(", "causal_lm": "load_causal_lm(", "reviews": "load_reviews("}
JUPYTER_SETTINGS = PACKAGE / "jupyter"


def register(command: Command) -> None:
    command(
        doctor,
        "check that this machine has what the lessons need",
        "Checks Python, torch and its device, memory, disk, the notebooks' kernel, models and data, and the installed\n"
        "versions. Every line starts with [ok], [warn] (the lessons run, but read it) or [fail] (they will not).\n"
        "Exits with 1 if there is a [fail].",
    )
    added = command(
        fetch,
        "download the models and data that the lessons use (once)",
        "Downloads what is not in the cache yet, checks it against pinned hashes and prepares it. Safe to interrupt\n"
        "and to repeat. LORA_COURSE_CACHE chooses the folder:\n\n"
        "  LORA_COURSE_CACHE=/big/disk/lora lora-course fetch\n"
        "  lora-course fetch --from /media/stick/assets     copy them, without a network",
    )
    added.add_argument("--from", dest="source", type=Path, metavar="FOLDER", help="a cache folder to copy from")
    added = command(
        room,
        "make a folder from which others install the course without a network (for instructors)",
        "Collects in FOLDER all that a workshop needs, for USB sticks or a share: the packages as wheels, models and\n"
        "data, the notebooks, and install.py, which sets a machine up from it. For machines like this one: the same\n"
        "system, processor and Python. Some gigabytes with a CUDA build of torch, about one without.\n\n"
        "  lora-course room /media/stick/lora_course",
    )
    added.add_argument("folder", type=Path, help="a new folder; it appears when it is complete")
    added = command(
        lab,
        "fetch what is missing and open the course in JupyterLab",
        "Opens lesson 00 in JupyterLab, on this machine only. Ctrl-C here stops it.\n\n"
        "  lora-course lab\n"
        "  lora-course lab --no-browser --port 8899      on a server, seen through `ssh -L 8899:localhost:8899`",
    )
    added.add_argument("--no-browser", action="store_true", help="print the address instead of opening a browser")
    added.add_argument("--port", type=_port, metavar="N", help="this port or none (else 8888 or the next free one)")
    added.add_argument("--skip-fetch", action="store_true", help="download nothing first")


def doctor(arguments: argparse.Namespace) -> int:
    from lora_course.doctor import diagnose

    findings = diagnose(course_folder(Path("constraints.txt")) or PACKAGE.parent)
    for finding in findings:
        print(f"{'[' + finding.level + ']':6} {finding.title:15} {finding.detail}")
    levels = [finding.level for finding in findings]
    print(f"\n{levels.count('fail')} to repair, {levels.count('warn')} to know about, {levels.count('ok')} in order.")
    return 1 if "fail" in levels else 0


def fetch(arguments: argparse.Namespace) -> int:
    from lora_course import assets

    try:
        statuses = assets.fetch(progress=True, source=arguments.source)
    except assets.AssetError as error:
        return problem(str(error))
    for status in statuses:
        print(f"{status.name:10} {status.bytes / 1e6:6.0f} MB  {status.path}")
    print(f"{'together':10} {sum(status.bytes for status in statuses) / 1e6:6.0f} MB")
    return 0


def room(arguments: argparse.Namespace) -> int:
    from lora_course.room.build import RoomError, build_room

    def run(root: Path) -> int:
        try:
            made = build_room(root, arguments.folder, say=print)
        except RoomError as error:
            return problem(str(error))
        print(made)
        return 0

    return with_sources(run)


def lab(arguments: argparse.Namespace) -> int:
    root = course_folder(START)
    if root is None:
        return problem(
            f"{START} is neither in {Path.cwd()} nor beside the installed package. The notebooks come with a clone of "
            "the repository, not with the package: run this command in the clone's folder."
        )
    if not arguments.skip_fetch:
        from lora_course import assets

        try:
            assets.fetch(progress=True)
        except assets.AssetError as error:
            missing = [status.name for status in assets.asset_status() if not status.present]
            print(f"warning: {error}\n{what_is_missing(missing, root / START.parent)}", file=sys.stderr)
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    command = lab_command(root, not arguments.no_browser, arguments.port, as_root)
    print("JupyterLab starts; Ctrl-C here stops it.", flush=True)
    return _hand_over_to(command, lab_environment(os.environ))


def lab_command(root: Path, browser: bool, port: int | None, as_root: bool) -> list[str]:
    """The command line that opens lesson 00 with this Python's JupyterLab and with `root` as its folder.

    -P keeps modules of the current folder out of the server. The start page is an address, not an argument, because
    Jupyter hides the other folders from who names a notebook. Ctrl-C asks no question.
    """
    command = [sys.executable, "-P", "-m", "jupyterlab", f"--ServerApp.root_dir={root}"]
    command += [f"--LabApp.default_url=/lab/tree/{START.as_posix()}", "--ServerApp.answer_yes=True"]
    if not browser:
        command += ["--no-browser"]
    if port is not None:
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if as_root:  # in a container; Jupyter would refuse
        command += ["--allow-root"]
    return command


def lab_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with our settings of JupyterLab (no news, no update notices), after those the user names there."""
    named = environment.get("JUPYTER_CONFIG_PATH")
    paths = [named, str(JUPYTER_SETTINGS)] if named else [str(JUPYTER_SETTINGS)]
    return {**environment, "JUPYTER_CONFIG_PATH": os.pathsep.join(paths)}


def what_is_missing(missing: Sequence[str], notebooks: Path) -> str:
    """Which lessons load which of the missing assets, found by reading the notebooks."""
    lines = ["JupyterLab opens all the same. Until `lora-course fetch` succeeds, these lessons will stop:"]
    for name in missing:
        lessons = [
            path.stem
            for path in sorted(notebooks.glob("[0-9]*.ipynb"))
            if LOADERS[name] in path.read_text(encoding="utf-8")
        ]
        lines.append(f"  without {name}: {', '.join(lessons) or 'none'}")
    return "\n".join(lines)


def _hand_over_to(command: list[str], environment: dict[str, str]) -> int:
    """Runs `command` in our place, so that signals reach it and our memory is free; returns only on Windows."""
    if os.name == "posix":
        os.execve(command[0], command, environment)
    return wait_for(subprocess.Popen(command, env=environment))


def wait_for(process: subprocess.Popen) -> int:
    """The exit code of a process that gets the user's Ctrl-C itself."""
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, not {text!r}")
    return int(text)
