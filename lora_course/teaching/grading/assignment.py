"""A lesson as the grader sees it: for each exercise, what runs before it, the stub, and what the check takes.

Everything here comes from the lesson's source. What a learner changed elsewhere in the notebook, check cells included,
is never looked at. A lesson's code is its imports, its cells tagged `setup`, and its exercises.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_course.teaching.answers import checked_expression, imports_of, without_magics
from lora_course.teaching.source import Cell, Lesson, lesson_paths, read_lesson


@dataclass(frozen=True)
class Step:
    """A cell of the lesson, in order. exercise: its id, or None for imports and setup; then `source` is run as it is.
    expression: what the check is given; target: the name that the check's result gets."""

    source: str
    exercise: str | None = None
    expression: str = ""
    target: str = ""


@dataclass(frozen=True)
class Assignment:
    """number: the lesson's two digits; digest: changes when anything does that could change a result."""

    lesson: Lesson
    steps: tuple[Step, ...]
    digest: str

    @property
    def number(self) -> str:
        return self.lesson.number

    @property
    def exercise_ids(self) -> list[str]:
        return [step.exercise for step in self.steps if step.exercise]


def load_assignments(root: Path) -> dict[str, Assignment]:
    """Number -> assignment, for every lesson in solutions/. Raises SourceError for a source that cannot be built."""
    return {lesson.number: assignment_of(lesson) for lesson in (read_lesson(p, root) for p in lesson_paths(root))}


def assignment_of(lesson: Lesson) -> Assignment:
    steps = [step for cell in lesson.cells if cell.kind == "code" for step in _steps(lesson, cell)]
    return Assignment(lesson, tuple(steps), _digest(lesson))


def _steps(lesson: Lesson, cell: Cell) -> list[Step]:
    if cell.exercise:
        expression = checked_expression(lesson, cell.exercise)
        return [Step(cell.for_student(), cell.exercise, expression, _target(lesson, cell.exercise) or expression)]
    source = without_magics(cell.source)
    source = source if "setup" in cell.tags else imports_of(source)
    return [Step(source)] if source.strip() else []


def _target(lesson: Lesson, exercise_id: str) -> str:
    """X of `X = check("02.1", ...)`."""
    for node in ast.parse(lesson.checks[exercise_id].source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("check("):
            return ast.unparse(node.targets[0])
    return ""


def _digest(lesson: Lesson) -> str:
    """Of the source, and of the package whose checks judge it."""
    package = Path(__file__).resolve().parents[2]
    seen = hashlib.sha256(lesson.path.read_bytes())
    for path in sorted(package.rglob("*.py")):
        seen.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return seen.hexdigest()


def graded_copy(assignment: Assignment, answers: dict[str, str]) -> Any:
    """The student's notebook as its source builds it, with these answers in the exercise cells. Without outputs."""
    from lora_course.teaching.authoring import notebook_for

    notebook = notebook_for(assignment.lesson, student=True)
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id.startswith("ex-"):
            number, _, place = cell.id.removeprefix("ex-").partition("-")
            cell.source = answers.get(f"{number}.{place}", cell.source)
    return notebook
