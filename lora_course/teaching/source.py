"""One lesson's source: a Python file in jupytext's percent format, read into cells and checked line by line.

    # %% exercise="02.1"           the cell a learner fills in; its answer stands between the two marker lines
    def double(x):
        ### BEGIN SOLUTION
        return 2 * x
        ### END SOLUTION
    # %% check="02.1"              the next code cell: double = check("02.1", double)
A mistake in the markers is refused with file and line, because a student's copy built from it would be wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jupytext

from lora_course.teaching.exercises import EXERCISE_ID

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
SOURCE_NAME = re.compile(r"(\d\d)_[a-z0-9_]+\.py")


class SourceError(ValueError):
    """A lesson's source that cannot be built; the message starts with file and line."""


@dataclass(frozen=True)
class Cell:
    """kind: "markdown" or "code". exercise, check: the id in the cell's header, or None. line: of the header."""

    kind: str
    source: str
    line: int
    exercise: str | None = None
    check: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def tags(self) -> list[str]:
        return self.metadata.get("tags", [])

    def for_student(self) -> str:
        """The source with each solution region replaced by one line that raises NotImplementedError."""
        kept: list[str] = []
        inside = False
        for line in self.source.splitlines():
            if line.strip() == BEGIN:
                inside = True
                kept.append(line.replace(BEGIN, stub_line(self.exercise)))
            elif line.strip() == END:
                inside = False
            elif not inside:
                kept.append(line)
        return "\n".join(kept)


@dataclass(frozen=True)
class Lesson:
    """A source and what is built from it. `path` is solutions/NN_slug.py under `root`."""

    root: Path
    path: Path
    cells: list[Cell]

    @property
    def slug(self) -> str:
        return self.path.stem

    @property
    def number(self) -> str:
        return self.slug[:2]

    @property
    def solution_path(self) -> Path:
        return self.path.with_suffix(".ipynb")

    @property
    def student_path(self) -> Path:
        return self.root / "notebooks" / f"{self.slug}.ipynb"

    @property
    def exercises(self) -> dict[str, Cell]:
        return {cell.exercise: cell for cell in self.cells if cell.exercise}

    @property
    def checks(self) -> dict[str, Cell]:
        return {cell.check: cell for cell in self.cells if cell.check}


def stub_line(exercise_id: str | None) -> str:
    """What stands in a student's copy where the solution was."""
    return f'raise NotImplementedError("Exercise {exercise_id}: your code goes here")'


def lesson_paths(root: Path) -> list[Path]:
    """The sources in solutions/, in order. Raises SourceError for a .py file there with another kind of name."""
    paths = sorted((root / "solutions").glob("*.py"))
    for path in paths:
        if not SOURCE_NAME.fullmatch(path.name):
            raise SourceError(f"{path.name}: a lesson's source is called NN_slug.py, such as 02_lora_layer.py")
    return paths


def read_lesson(path: Path, root: Path) -> Lesson:
    """Reads and checks a source. Raises SourceError for anything that could not be built as meant."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    headers = [number for number, line in enumerate(lines, 1) if line.startswith("# %%")]
    if not headers or any(line.strip() for line in lines[: headers[0] - 1]):
        raise SourceError(f"{path.name}:1: the first line must start a cell: # %% [markdown]")
    parsed = jupytext.reads(text, fmt="py:percent").cells
    if len(parsed) != len(headers):
        raise SourceError(f"{path.name}: {len(headers)} lines start with '# %%' but jupytext sees {len(parsed)} cells")
    cells = [_cell(cell, line) for cell, line in zip(parsed, headers, strict=True)]
    for cell, start, stop in zip(cells, headers, [*headers[1:], len(lines) + 1], strict=True):
        if cell.kind not in ("markdown", "code"):
            raise SourceError(f"{path.name}:{start}: a cell is markdown or code, not {cell.kind}")
        _check_markers(path.name, cell, lines[start : stop - 1], start + 1)
    lesson = Lesson(root, path, cells)
    _check_exercises(lesson)
    return lesson


def _cell(parsed: Any, line: int) -> Cell:
    metadata = {name: value for name, value in parsed.metadata.items() if name in ("tags", "jupyter")}
    ids = {name: None if name not in parsed.metadata else str(parsed.metadata[name]) for name in ("exercise", "check")}
    return Cell(parsed.cell_type, parsed.source, line, metadata=metadata, **ids)


def _check_markers(file: str, cell: Cell, lines: list[str], first: int) -> None:
    """BEGIN and END alternate, indented alike and inside a function, with code between them, in exercise cells only."""
    begin: int | None = None
    indent, code, regions = "", False, 0
    for number, line in enumerate(lines, first):
        where, word = f"{file}:{number}", line.strip()
        if ("BEGIN SOLUTION" in line or "END SOLUTION" in line) and word not in (BEGIN, END):
            raise SourceError(f"{where}: a marker stands alone on its line, as {BEGIN} or {END}")
        if word in (BEGIN, END) and not cell.exercise:
            raise SourceError(f'{where}: {word} outside an exercise cell; start the cell with # %% exercise="NN.N"')
        if word == BEGIN:
            if begin:
                raise SourceError(f"{where}: {BEGIN} inside the region that began on line {begin}")
            begin, indent, code, regions = number, line[: line.index("#")], False, regions + 1
            if not indent:
                raise SourceError(f"{where}: a solution stands inside a function; at the top level of the cell the "
                                  "student's copy would stop there")
        elif word == END:
            if not begin:
                raise SourceError(f"{where}: {END} without {BEGIN}")
            if not code:
                raise SourceError(f"{where}: no code in the region that began on line {begin}")
            if line[: line.index("#")] != indent:
                raise SourceError(f"{where}: {END} is not indented like {BEGIN} on line {begin}")
            begin = None
        elif begin and word and not word.startswith("#"):
            code = True
    if begin:
        raise SourceError(f"{file}:{begin}: {BEGIN} without {END} in the same cell")
    if cell.exercise and not regions:
        raise SourceError(f"{file}:{cell.line}: exercise {cell.exercise} has no solution region")


def _check_exercises(lesson: Lesson) -> None:
    """Each exercise once, numbered for this lesson, its check in the next code cell; no check without exercise."""
    met: set[str] = set()
    open_exercise: str | None = None  # the exercise whose check must come next
    for cell in lesson.cells:
        where, found = f"{lesson.path.name}:{cell.line}", cell.exercise or cell.check
        if found and (cell.kind != "code" or (cell.exercise and cell.check)):
            raise SourceError(f"{where}: exercise and check are two code cells")
        if found and not (EXERCISE_ID.fullmatch(found) and found[:2] == lesson.number):
            raise SourceError(f"{where}: exercise id {found!r}; in this file ids look like '{lesson.number}.1'")
        if cell.kind == "code" and cell.check != open_exercise:
            if open_exercise:
                raise SourceError(f'{where}: the code cell after exercise {open_exercise} must start with '
                                  f'# %% check="{open_exercise}"')
            raise SourceError(f"{where}: check {cell.check} does not stand below exercise {cell.check}")
        if cell.exercise in met:
            raise SourceError(f"{where}: exercise {cell.exercise} is there twice")
        if cell.exercise:
            met.add(cell.exercise)
        if cell.kind == "code":
            open_exercise = cell.exercise
    if open_exercise:
        raise SourceError(f"{lesson.path.name}: exercise {open_exercise} has no check below it")
