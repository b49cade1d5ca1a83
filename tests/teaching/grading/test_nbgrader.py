"""With nbgrader: it accepts the notebooks' metadata, and gives the same marks as `lora-course grade`.

Needs the extra "nbgrader". The settings are the ones that GRADING.md tells a school to use.
"""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from lora_course import cli
from lora_course.teaching.authoring import notebook_for
from lora_course.teaching.source import lesson_paths
from tests.teaching.grading.conftest import DOUBLE, REPOSITORY, SHIFT

pytest.importorskip("nbgrader", reason='nbgrader is not installed: pip install -c constraints.txt -e ".[nbgrader]"')
LESSON = "99_fixture"
CLASS = {
    "alice": {"ex-99-1": DOUBLE, "ex-99-2": SHIFT},
    "bob": {"ex-99-1": "def double(x):\n    return x * x\n"},
}
GUIDE = (REPOSITORY / "solutions" / "GRADING.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("slug", [path.stem for path in lesson_paths(REPOSITORY)])
@pytest.mark.parametrize("folder", ["solutions", "notebooks"])
def test_the_metadata_are_valid(slug, folder):
    from nbgrader.nbgraderformat import MetadataValidator

    notebook = nbformat.read(REPOSITORY / folder / f"{slug}.ipynb", as_version=4)
    MetadataValidator().validate_nb(notebook)
    ids = [cell.metadata.nbgrader.grade_id for cell in notebook.cells if "nbgrader" in cell.metadata]
    assert len(ids) == len(set(ids)) >= 2


@pytest.fixture(scope="module")
def school(assignment, fixture_course, tmp_path_factory):
    """A course folder of nbgrader: assignment released, two submissions in, graded."""
    folder = tmp_path_factory.mktemp("school")
    settings = re.search(r"```python\n(c = get_config\(\).+?)```", GUIDE, re.DOTALL)[1]
    (folder / "nbgrader_config.py").write_text(settings, encoding="utf-8")
    source = folder / "source" / LESSON
    source.mkdir(parents=True)
    nbformat.write(notebook_for(assignment.lesson, student=False), source / f"{LESSON}.ipynb")
    nbgrader(folder, "generate_assignment", LESSON)
    released = (folder / "release" / LESSON / f"{LESSON}.ipynb").read_text(encoding="utf-8")
    for learner, answers in CLASS.items():
        notebook = json.loads(released)
        for cell in notebook["cells"]:
            cell["source"] = answers.get(cell["id"], cell["source"])
        path = folder / "submitted" / learner / LESSON / f"{LESSON}.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(notebook), encoding="utf-8")
    nbgrader(folder, "autograde", LESSON)
    return folder


def nbgrader(folder, *arguments):
    own = {name: str(folder / "home") for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # nbgrader calls alembic by its name
    own |= {"PATH": path, "LORA_COURSE_STRICT": "1", "LORA_COURSE_DATA": str(folder / "progress")}
    command = [sys.executable, "-m", "nbgrader", *arguments]
    run = subprocess.run(command, cwd=folder, env=os.environ | own, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_what_is_handed_out_has_no_solution(school):
    released = nbformat.read(school / "release" / LESSON / f"{LESSON}.ipynb", as_version=4)
    code = {cell.id: cell.source for cell in released.cells if cell.cell_type == "code"}
    assert "return 2 * x" not in code["ex-99-1"] and "NotImplementedError" in code["ex-99-1"]
    assert code["ex-99-2"].count("NotImplementedError") == 2
    assert code["chk-99-1"].strip() == 'double = check("99.1", double)'


def test_both_give_the_same_marks(school, fixture_course, tmp_path, monkeypatch):
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{school / 'gradebook.db'}") as book:
        marks = {
            (learner, grade.name.removeprefix("chk-").replace("-", ".")): (grade.auto_score, grade.max_score)
            for learner in CLASS
            for grade in book.find_submission_notebook(LESSON, LESSON, learner).grades
        }
    monkeypatch.chdir(fixture_course)
    out = tmp_path / "report"
    assert cli.main(["grade", str(school / "submitted"), "--out", str(out), "--seconds", "120"]) == 0
    rows = csv.DictReader(io.StringIO((out / "grades.csv").read_text(encoding="utf-8")))
    results = {(Path(row["submission"]).parts[0], row["exercise"]): row["result"] for row in rows}
    assert results == {
        ("alice", "99.1"): "right",
        ("alice", "99.2"): "right",
        ("bob", "99.1"): "wrong",
        ("bob", "99.2"): "unsolved",
    }
    assert marks == {key: (float(result == "right"), 1.0) for key, result in results.items()}
