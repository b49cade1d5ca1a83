"""A notebook that somebody handed in, read without trusting it: only its exercise cells' sources leave this module.

    submission.answers      {"02.1": "def count(...): ..."}      what will be run
    submission.problems     {"02.2": "no cell ..."}              exercises that cannot be taken from it
    submission.refused      why none of it can be graded, or None
Nothing here raises for a bad file: what is wrong with it becomes a sentence in the report.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LARGEST = 100_000_000  # bytes; a notebook with every figure of a lesson in it has some hundred thousand
LONGEST_ANSWER = 100_000  # characters
EXERCISE_CELL = re.compile(r"ex-(\d\d)-(\d{1,2})")
CONFLICT = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)


@dataclass
class Submission:
    """name: the path under the submissions' folder, with "/" and without ".ipynb". lesson: two digits, or "" if none
    can be told. digest: of the file's bytes, to know it again."""

    name: str
    lesson: str = ""
    answers: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    refused: str | None = None
    digest: str = ""

    @property
    def learner(self) -> str:
        """Whose it is: the first folder of the name, or the name where there is no folder."""
        return self.name.split("/")[0]


def find_submissions(folder: Path) -> list[Path]:
    """Every .ipynb under `folder`, in order; folders that are links or hidden are not entered."""
    found = []
    for here, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(here) / name for name in sorted(files) if name.lower().endswith(".ipynb")]
    return found


def submission_name(path: Path, folder: Path) -> str:
    """What the report calls it, in characters that can be written anywhere."""
    name = path.relative_to(folder).as_posix()[: -len(".ipynb")]
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "�", name) or "unnamed"


def read_submission(path: Path, name: str, lessons: Iterable[str]) -> Submission:
    """The exercise cells of the notebook at `path`. lessons: numbers of the lessons that there are."""
    submission = Submission(name)
    try:
        data = _bytes(path)
        submission.digest = hashlib.sha256(data).hexdigest()
        cells = _cells(data)
    except _Refused as error:
        submission.refused = str(error)
        submission.digest = submission.digest or hashlib.sha256(str(error).encode()).hexdigest()
        return submission
    sources = _exercise_sources(cells)
    submission.lesson, submission.refused = _which_lesson(path.name, list(sources), set(lessons))
    for exercise_id, found in sources.items():
        if exercise_id[:2] != submission.lesson or submission.refused:
            continue
        if len(set(found)) > 1:
            submission.problems[exercise_id] = f"{len(found)} different cells carry the id of exercise {exercise_id}"
        elif problem := _unusable(found[0]):
            submission.problems[exercise_id] = problem
        else:
            submission.answers[exercise_id] = found[0]
    return submission


class _Refused(Exception):
    pass


def _bytes(path: Path) -> bytes:
    """The file's content. Opens no link, no pipe and no device, and nothing that is too large to be a notebook."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if path.is_symlink():
            raise _Refused("a symbolic link, not a file: it was not followed") from None
        raise _Refused(f"cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise _Refused("not an ordinary file")
        if about.st_size > LARGEST:
            raise _Refused(f"{about.st_size / 1e6:.0f} MB; at most {LARGEST // 10**6} are read: clear its outputs")
        return file.read(LARGEST + 1)


def _cells(data: bytes) -> list[dict[str, Any]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Refused(f"not UTF-8 text (byte {error.start}); a notebook is always UTF-8") from None
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        if CONFLICT.search(text):
            raise _Refused("the file has merge-conflict markers (<<<<<<<): resolve the merge and save again") from None
        where = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        raise _Refused(f"not a notebook: the file is not JSON{where}") from None
    if not isinstance(notebook, dict) or "nbformat" not in notebook:
        raise _Refused("not a notebook: JSON, but without the field nbformat")
    if notebook["nbformat"] != 4:
        found = str(notebook["nbformat"])[:20]
        raise _Refused(f"a notebook in format {found}; open it in JupyterLab and save it, which makes format 4")
    cells = notebook.get("cells")
    if not isinstance(cells, list):
        raise _Refused("not a notebook: it has no list of cells")
    return [cell for cell in cells if isinstance(cell, dict) and cell.get("cell_type") == "code"]


def _exercise_sources(cells: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Exercise id -> the sources of the cells that carry it, in nbgrader's metadata or else as the cell's id."""
    sources: dict[str, list[str]] = {}
    for cell in cells:
        metadata = cell.get("metadata")
        nbgrader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
        named = nbgrader.get("grade_id") if isinstance(nbgrader, dict) else None
        match = EXERCISE_CELL.fullmatch(named if isinstance(named, str) else str(cell.get("id")))
        if match:
            lines = cell.get("source")
            text = lines if isinstance(lines, str) else "".join(map(str, lines)) if isinstance(lines, list) else ""
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            sources.setdefault(f"{match[1]}.{match[2]}", []).append(text)
    return sources


def _which_lesson(file_name: str, exercise_ids: list[str], lessons: set[str]) -> tuple[str, str | None]:
    """The lesson's number by most of its cells, and what speaks against grading it."""
    count = Counter(exercise_id[:2] for exercise_id in exercise_ids if exercise_id[:2] in lessons)
    said = re.match(r"(\d\d)_", file_name)
    named = said[1] if said and said[1] in lessons else ""
    if not count:
        return named, "no cell carries the id of an exercise: it is not a notebook of this course, or ids were removed"
    found = count.most_common(1)[0][0]
    if named and named not in count:
        return named, f"the file is called {file_name[:40]}, but its cells are those of lesson {found}"
    return named or found, None


def _unusable(source: str) -> str | None:
    if len(source) > LONGEST_ANSWER:
        return f"the cell has {len(source)} characters; an answer has at most {LONGEST_ANSWER}"
    if match := CONFLICT.search(source):
        return f"merge-conflict markers in line {source.count(chr(10), 0, match.start()) + 1} of the cell"
    return None
