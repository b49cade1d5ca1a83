"""Notebooks under pytest with the repository's own conftest.py, and under a learner's hands.

Each test runs pytest in a process of its own on a copy of the small course, with every warning an error.
"""

import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook, new_output

from lora_course.teaching.authoring import ThisPython
from lora_course.teaching.progress import progress
from lora_course.teaching.source import stub_line
from tests.teaching.conftest import REPOSITORY, SLUG

PROBE = """import os
seen = {name: os.environ.get(f"LORA_COURSE_{name}") for name in ("STRICT", "PROFILE", "DATA")}
assert seen.pop("DATA") not in (None, "the-users-own")
print(seen)"""
UNIT_TEST = """import os
def test_the_environment_is_the_users_again(tmp_path):
    assert os.environ.get("LORA_COURSE_PROFILE") == os.environ["EXPECTED_PROFILE"]
    assert "LORA_COURSE_STRICT" not in os.environ
    assert os.environ["LORA_COURSE_DATA"] == str(tmp_path / "data")
"""


def probe(path, strict, profile):
    """A notebook whose cell must print these settings."""
    path.parent.mkdir(exist_ok=True)
    text = str({"STRICT": strict, "PROFILE": profile}) + "\n"
    cell = new_code_cell(PROBE, execution_count=1, outputs=[new_output("stream", name="stdout", text=text)])
    cell.metadata["tags"] = ["nbval-check-output"]
    nbformat.write(new_notebook(cells=[cell]), path)


def pytest_in(folder, *arguments, **variables):
    shutil.copy(REPOSITORY / "conftest.py", folder / "conftest.py")
    settings = {name: value for name, value in os.environ.items() if not name.startswith("LORA_COURSE_")}
    settings |= {"PYTHONPATH": str(REPOSITORY), "LORA_COURSE_DATA": "the-users-own"} | variables
    command = [sys.executable, "-W", "error", "-m", "pytest", "-W", "error", "--nbval-lax", "--nbval-current-env",
               "--color=no", "-q", "-p", "no:cacheprovider", f"--rootdir={folder}", *arguments]
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)
    assert not (folder / "the-users-own").exists()
    return done.returncode, done.stdout + done.stderr


def test_each_folder_gets_its_environment_and_unit_tests_get_theirs_back(tmp_path):
    probe(tmp_path / "solutions" / "a.ipynb", "1", "cpu")
    probe(tmp_path / "notebooks" / "a.ipynb", None, "smoke")
    probe(tmp_path / "mine" / "a.ipynb", None, "full")
    (tmp_path / "notebooks" / "test_between.py").write_text(UNIT_TEST)
    code, said = pytest_in(
        tmp_path, "solutions", "notebooks", "mine", EXPECTED_PROFILE="full", LORA_COURSE_PROFILE="full"
    )
    assert code == 1 and "3 passed" in said and "'PROFILE': 'full'" in said  # solutions: the user's profile wins
    code, said = pytest_in(tmp_path, "solutions")
    assert (code, "1 passed" in said) == (0, True), said


def test_the_small_course_is_green_and_compares_its_outputs(course):
    code, said = pytest_in(course, "solutions", "notebooks")
    assert code == 0 and "20 passed" in said and "warning" not in said.lower(), said
    path = course / "solutions" / f"{SLUG}.ipynb"
    text = path.read_text(encoding="utf-8")
    assert text.count("it doubles random numbers") == 2  # text/plain and text/html
    path.write_text(text.replace("it doubles random numbers", "it halves random numbers"), encoding="utf-8")
    code, said = pytest_in(course, "solutions")
    assert code == 1 and "1 failed" in said and "it halves random numbers" in said


def test_strict_grades_a_students_copy(course):
    code, said = pytest_in(course, f"notebooks/{SLUG}.ipynb", LORA_COURSE_STRICT="1")
    assert code == 1 and "○ Exercise 99.1 · Twice as much: not solved yet" in said


def replace_exercise(notebook, cell_id, source):
    next(cell for cell in notebook.cells if cell.id == cell_id).source = source


@pytest.fixture(scope="module")
def session(built_course, tmp_path_factory):
    """A learner's copy with one answer that breaks and one left unsolved, run in a kernel from top to bottom."""
    data = tmp_path_factory.mktemp("data")
    notebook = nbformat.read(built_course / "notebooks" / f"{SLUG}.ipynb", as_version=4)
    replace_exercise(notebook, "ex-99-1", "def double(x):\n    half = x / 2\n    return half.nothing\n")
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ThisPython())
    variables = {"PYTHONPATH": str(REPOSITORY), "LORA_COURSE_PROFILE": "smoke", "LORA_COURSE_DATA": str(data)}
    NotebookClient(notebook, km=manager).execute(
        env=os.environ | variables, stderr=subprocess.DEVNULL, cleanup_kc=True
    )
    return {cell.id: cell for cell in notebook.cells}, data


def test_a_learner_sees_the_line_that_broke(session):
    cells, _ = session
    for shown in cells["chk-99-1"].outputs[0].data.values():
        assert "AttributeError" in shown and "line 3 of your code: return half.nothing" in shown
        assert "ipykernel" not in shown and "Traceback" not in shown
    assert 'role="status"' in cells["chk-99-1"].outputs[0].data["text/html"]


def test_a_learner_is_told_what_is_still_to_write_and_the_notebook_runs_on(session):
    cells, _ = session
    assert stub_line("99.2") in cells["ex-99-2"].source
    assert "Still to write: Shift.__init__" in cells["chk-99-2"].outputs[0].data["text/plain"]
    assert any("True [4.0, 4.0]" in str(cell.get("outputs")) for cell in cells.values())


def test_the_session_left_its_progress(session, monkeypatch):
    monkeypatch.setenv("LORA_COURSE_DATA", str(session[1]))
    assert progress() == {"99.1": "wrong", "99.2": "unsolved"}
