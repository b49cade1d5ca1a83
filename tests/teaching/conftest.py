"""A small course of one lesson, built once and copied for each test that spoils it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lora_course.teaching.authoring import build
from lora_course.teaching.source import Lesson, read_lesson

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SLUG = "99_fixture"


@pytest.fixture(scope="session")
def built_course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built and executed. The kernel finds the lesson's checks through PYTHONPATH."""
    root = tmp_path_factory.mktemp("built") / "course"
    shutil.copytree(HERE / "fixture_course", root, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
        assert build(root, execute="all") == []
    return root


@pytest.fixture
def course(built_course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the built course, for a test to change."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    return Path(shutil.copytree(built_course, tmp_path / "course"))


def source_path(course: Path) -> Path:
    return course / "solutions" / f"{SLUG}.py"


def edit(path: Path, old: str, new: str) -> None:
    """Replace text in a file; the test is wrong if it is not there exactly once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {path.name}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def lesson_of(course: Path) -> Lesson:
    return read_lesson(source_path(course), course)
