"""Notebooks of the fixture lesson with answers in them, and one grading process for all tests of a file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_course.teaching.authoring import notebook_for
from lora_course.teaching.grading.assignment import Assignment, load_assignments
from lora_course.teaching.grading.grade import Row, grade_submission
from lora_course.teaching.grading.sandbox import Limits
from lora_course.teaching.grading.submission import read_submission
from lora_course.teaching.grading.worker import Worker

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
DOUBLE = "def double(x):\n    return x + x\n"
SHIFT = (
    "class Shift(nn.Module):\n"
    "    def __init__(self, by):\n        super().__init__()\n        self.by = by\n\n"
    "    def forward(self, x):\n        return x + self.by\n"
)


@pytest.fixture(scope="session")
def fixture_course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The sources of the fixture lesson; a grading process finds its checks through PYTHONPATH."""
    root = tmp_path_factory.mktemp("grading") / "course"
    shutil.copytree(HERE.parent / "fixture_course" / "solutions", root / "solutions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
        yield root


@pytest.fixture(scope="session")
def assignment(fixture_course: Path) -> Assignment:
    return load_assignments(fixture_course)["99"]


@pytest.fixture(scope="session")
def notebook(assignment: Assignment) -> Callable[..., dict[str, Any]]:
    """notebook(double=..., shift=...): the student's copy with these cells, as JSON."""

    def make(double: str | None = None, shift: str | None = None) -> dict[str, Any]:
        made = json.loads(json.dumps(notebook_for(assignment.lesson, student=True)))
        for cell in made["cells"]:
            source = {"ex-99-1": double, "ex-99-2": shift}.get(cell["id"])
            cell["source"] = cell["source"] if source is None else source
        return made

    return make


@pytest.fixture(scope="session")
def worker(fixture_course: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Worker(fixture_course, [tmp_path_factory.mktemp("hidden")]) as worker:
        yield worker


@pytest.fixture
def grade(
    notebook: Callable[..., dict[str, Any]], assignment: Assignment, worker: Worker, tmp_path: Path
) -> Callable[..., dict[str, Row]]:
    """grade(double=..., shift=...) or grade(content=bytes): exercise -> its row."""

    def run(content: bytes | None = None, limits: Limits | None = None, **cells: str) -> dict[str, Row]:
        path = tmp_path / "alice.ipynb"
        path.write_bytes(json.dumps(notebook(**cells)).encode() if content is None else content)
        submission = read_submission(path, "alice", ["01", "99"])
        rows = grade_submission(submission, assignment, worker, limits or Limits(seconds=120))
        return {row.exercise: row for row in rows}

    return run
