"""What the commands have in common: where the course is, what a problem looks like, how numbers are read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

PACKAGE = Path(__file__).resolve().parents[1]


class Command(Protocol):
    """Adds a command named after its function `run`, and returns its parser for the arguments."""

    def __call__(self, run: Callable, summary: str, text: str) -> argparse.ArgumentParser: ...


def problem(text: str, code: int = 1) -> int:
    print(f"lora-course: {text}", file=sys.stderr)
    return code


def whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"a whole number, 0 or more, not {text!r}")
    return int(text)


def with_sources(run: Callable[[Path], int]) -> int:
    """Runs what needs the lessons' sources, and says what is missing where they cannot be had."""
    root = course_folder(Path("solutions"))
    if root is None:
        return problem("no solutions/ here or beside the package: run this command in a clone of the repository.")
    from lora_course.teaching.source import SourceError

    try:
        return run(root)
    except (SourceError, OSError) as error:
        return problem(str(error))


def course_folder(wanted: Path) -> Path | None:
    """The folder that has `wanted` in it: the current one, else the checkout that the package lies in, else None."""
    for folder in (Path.cwd(), PACKAGE.parent):
        if (folder / wanted).exists():
            return folder
    return None
