"""A class in one folder: the table, the pages, going on after an interruption, and a learner's own report."""

import csv
import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import nbformat
import pytest

from lora_course import cli
from lora_course.teaching.answers import answer_files, load_answer
from lora_course.teaching.grading import grade as module
from lora_course.teaching.grading.assignment import load_assignments
from lora_course.teaching.grading.grade import Class, Row, safe_name
from lora_course.teaching.grading.report import class_page, grades_csv, junit_xml, learner_page
from lora_course.teaching.grading.sandbox import Limits
from lora_course.teaching.grading.screen import screen
from lora_course.teaching.grading.worker import Worker
from lora_course.teaching.source import lesson_paths, read_lesson
from tests.teaching.grading.conftest import DOUBLE, REPOSITORY, SHIFT

EVIL = "=HYPERLINK(\"http://x\")<script>alert(1)</script>\x00\x1b"


@pytest.fixture(scope="module")
def graded(fixture_course, notebook, tmp_path_factory):
    """A class of four, graded once by the command; then a fifth comes, and the same command again."""
    folder = tmp_path_factory.mktemp("class")
    submissions, out = folder / "submissions", folder / "report"
    for name, content in {
        "alice/99_fixture": json.dumps(notebook(double=DOUBLE, shift=SHIFT)),
        "bob/99_fixture": json.dumps(notebook(double="def double(x):\n    return x * x\n")),
        "=cmd": json.dumps(notebook(double="raise ValueError('<script>alert(1)</script>')\n")),
        "dora": "<<<<<<< HEAD\n",
    }.items():
        (submissions / name).parent.mkdir(parents=True, exist_ok=True)
        (submissions / f"{name}.ipynb").write_text(content, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(fixture_course)
        command = ["grade", str(submissions), "--out", str(out), "--seconds", "120", "--jobs", "2"]
        assert cli.main(command) == 0
        first = (out / "grades.csv").read_text(encoding="utf-8")
        (submissions / "emil.ipynb").write_text("no", encoding="utf-8")
        patch.setattr(module.Worker, "examine", lambda *_: pytest.fail("nothing that was graded is graded again"))
        assert cli.main(command) == 0
    return out, first


def test_the_table_has_a_line_for_each_exercise(graded):
    rows = [tuple(row[:3]) for row in csv.reader(io.StringIO(graded[1]))]
    assert rows == [
        ("submission", "exercise", "result"),
        ("'=cmd", "99.1", "wrong"),
        ("'=cmd", "99.2", "unsolved"),
        ("dora", "-", "error"),
        ("alice/99_fixture", "99.1", "right"),
        ("alice/99_fixture", "99.2", "right"),
        ("bob/99_fixture", "99.1", "wrong"),
        ("bob/99_fixture", "99.2", "unsolved"),
    ]


def test_a_second_run_adds_what_is_new_and_keeps_the_rest(graded):
    out, first = graded
    second = (out / "grades.csv").read_text(encoding="utf-8")
    assert set(first.splitlines()) < set(second.splitlines()) and "emil,-,error" in second


def test_nbval_in_strict_mode_says_the_same_of_the_graded_copies(graded, tmp_path):
    """A right exercise is a check cell that passes; a wrong or unsolved one is a check cell that fails."""
    out, first = graded
    environment = os.environ | {
        "LORA_COURSE_STRICT": "1",
        "PYTHONPATH": str(REPOSITORY),
        "LORA_COURSE_DATA": str(tmp_path / "data"),
    }
    said = {(row[0], row[1]): row[2] for row in csv.reader(io.StringIO(first)) if row[0].endswith("99_fixture")}
    assert len(said) == 4 and set(said.values()) == {"right", "wrong", "unsolved"}
    for name in ("alice/99_fixture", "bob/99_fixture"):
        copy, report = out / "copies" / f"{safe_name(name)}.ipynb", tmp_path / "report.xml"
        command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider"]
        command += [f"--rootdir={tmp_path}", "-c", os.devnull, f"--junit-xml={report}", str(copy)]
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=300)
        ids = [cell.id for cell in nbformat.read(copy, 4).cells if cell.cell_type == "code"]
        cases = {ids[int(case.get("name").split()[-1])]: case for case in ET.parse(report).iter("testcase")}
        for exercise in ("99.1", "99.2"):
            passed = cases[f"chk-{exercise.replace('.', '-')}"].find("failure") is None
            assert passed == (said[name, exercise] == "right"), f"{name} {exercise}"


def test_the_graded_copy_is_the_lesson_with_the_learners_cells(graded, fixture_course):
    out, _ = graded
    copy = nbformat.read(out / "copies" / f"{safe_name('alice/99_fixture')}.ipynb", as_version=4)
    sources = {cell.id: cell.source for cell in copy.cells}
    assert sources["ex-99-1"] == DOUBLE and sources["chk-99-1"] == 'double = check("99.1", double)'
    nbformat.validate(copy)


def test_pages_exist_for_the_class_and_for_each_learner(graded):
    out, _ = graded
    page = (out / "index.html").read_text(encoding="utf-8")
    for learner in ("alice", "bob", "=cmd", "dora", "emil"):
        assert f"learners/{safe_name(learner)}.html" in page
        assert (out / "learners" / f"{safe_name(learner)}.html").exists()
    assert "&lt;script&gt;" in (out / "learners" / f"{safe_name('=cmd')}.html").read_text(encoding="utf-8")
    assert not any("<script" in path.read_text(encoding="utf-8") for path in out.rglob("*.html"))


def test_reports_carry_hostile_text_as_text():
    rows = (Row(EVIL, "02.1", "error", EVIL), Row("ann", "02.1", "unsolved", ""))
    for line in list(csv.reader(io.StringIO(grades_csv(rows))))[1:]:
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in line)
    suites = ET.fromstring(junit_xml(rows)).findall("testsuite")
    assert [suite.get("errors") for suite in suites] == ["1", "0"]
    assert [suite.get("skipped") for suite in suites] == ["0", "1"]
    for page in (class_page(Class(rows, (EVIL,), 0)), learner_page(EVIL, list(rows))):
        assert "<script" not in page and 'lang="en"' in page and page.count("<h1>") == 1
        ET.fromstring(page.split("\n", 1)[1].replace('charset="utf-8">', 'charset="utf-8"/>')
                      .replace("'unsafe-inline'\">", "'unsafe-inline'\"/>").replace("scale=1\">", "scale=1\"/>"))


def test_names_that_differ_get_files_that_differ():
    names = ["a/b", "a-b", "a b", "../../etc/passwd", "é", "è", "x" * 300]
    files = {safe_name(name) for name in names}
    assert len(files) == len(names) and all(len(f) < 80 and "/" not in f and ".." not in f for f in files)


def test_a_learners_own_report(fixture_course, notebook, tmp_path, monkeypatch, capsys):
    path = tmp_path / "99_fixture.ipynb"
    path.write_text(json.dumps(notebook(double="def double(x):\n    return x * x\n", shift=SHIFT)), encoding="utf-8")
    monkeypatch.chdir(fixture_course)
    assert cli.main(["check", str(path)]) == 1
    said = capsys.readouterr().out
    assert "✗ Exercise 99.1" in said and "you squared it" in said and "✓ Exercise 99.2" in said
    assert "1 right, 1 wrong." in said


def test_a_notebook_without_answers_is_no_failure(fixture_course, notebook, tmp_path, monkeypatch, capsys):
    path = tmp_path / "99_fixture.ipynb"
    path.write_text(json.dumps(notebook()), encoding="utf-8")
    monkeypatch.chdir(fixture_course)
    assert cli.main(["check", str(path)]) == 0
    assert "2 unsolved." in capsys.readouterr().out
    path.write_text("not a notebook", encoding="utf-8")
    assert cli.main(["check", str(path)]) == 1
    assert cli.main(["grade", str(path), "--out", str(tmp_path / "out")]) == 2


def test_every_lesson_can_be_graded_and_no_right_answer_is_screened_out():
    assignments = load_assignments(REPOSITORY)
    assert {a.lesson.path for a in assignments.values()} == set(lesson_paths(REPOSITORY))
    for assignment in assignments.values():
        lesson = read_lesson(assignment.lesson.path, REPOSITORY)
        assert assignment.exercise_ids == list(lesson.exercises)
        assert all(step.expression == step.target for step in assignment.steps if step.exercise)
        for exercise_id, cell in lesson.exercises.items():
            assert screen(cell.source, object()) is None, exercise_id
    for path in answer_files(REPOSITORY / "tests" / "right_answers"):
        assert screen(path.read_text(encoding="utf-8"), load_answer) is None, path.name


def test_without_forks_each_answer_gets_a_runner_and_the_report_says_so(fixture_course, assignment):
    with Worker(fixture_course, [], forks=False) as worker:
        first = worker.examine(assignment, "99.1", {"99.1": DOUBLE}, Limits(seconds=120))
        second = worker.examine(assignment, "99.1", {"99.1": "import os\nos._exit(0)\n"}, Limits(seconds=120))
    assert (first[0], second) == ("right", ("error", "the process that grades ended while this answer ran"))
    assert "cannot fork" in worker.notes[0]
