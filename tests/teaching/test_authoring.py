import json
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output

from lora_course.teaching.authoring import CHECKED, WIDGET, build, clean_outputs, notebook_for, run
from lora_course.teaching.source import SourceError, read_lesson
from tests.teaching.conftest import SLUG, edit, lesson_of, source_path

STUDENT, SOLUTION = f"notebooks/{SLUG}.ipynb", f"solutions/{SLUG}.ipynb"


def contents(course):
    return {path.name: path.read_bytes() for path in course.rglob("*.ipynb")}


def read(path):
    return nbformat.read(path, as_version=4)


def test_building_again_changes_no_byte(course):
    for path in course.rglob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert text.endswith("}\n") and "\r" not in text
        assert text == json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    before = contents(course)
    assert build(course, check=True) == [] and build(course) == []
    (course / STUDENT).unlink()
    assert build(course, check=True) == [f"{STUDENT}: missing"]
    assert not (course / STUDENT).exists()
    assert build(course) == []
    assert contents(course) == before


def test_the_students_copy_has_stubs_and_no_outputs(course):
    cells = {cell.id: cell for cell in read(course / STUDENT).cells}
    assert "BEGIN SOLUTION" not in (course / STUDENT).read_text(encoding="utf-8")
    assert cells["ex-99-1"].source.count('raise NotImplementedError("Exercise 99.1: your code goes here")') == 1
    assert cells["ex-99-2"].source.count("raise NotImplementedError") == 2
    assert all(not c.outputs and c.execution_count is None for c in cells.values() if c.cell_type == "code")


def test_the_solution_is_executed_and_its_outputs_hold_no_progress_bars(course):
    code = [cell for cell in read(course / SOLUTION).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert "✓ Exercise 99.1" in code[2].outputs[0].data["text/plain"]
    assert 'role="status"' in code[2].outputs[0].data["text/html"]
    assert [cell.outputs for cell in code if "tqdm(" in cell.source] == [[]]


@pytest.mark.parametrize("path", [STUDENT, SOLUTION])
def test_metadata(course, path):
    notebook = read(course / path)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info == {"name": "python"}
    cells = {cell.id: cell for cell in notebook.cells}
    exercise = {"solution": True, "grade": False, "locked": False}
    check = {"solution": False, "grade": True, "locked": True, "points": 1}
    for name, expected in (("ex-99-1", exercise), ("chk-99-1", check), ("ex-99-2", exercise), ("chk-99-2", check)):
        assert cells[name].metadata.nbgrader == {"schema_version": 3, "grade_id": name, "task": False} | expected
    assert cells["chk-99-1"].metadata.tags == [CHECKED]
    assert [c.metadata.jupyter for c in notebook.cells if "jupyter" in c.metadata] == [{"source_hidden": True}]
    assert sum("nbgrader" in cell.metadata for cell in notebook.cells) == 4


def test_cell_ids_depend_on_content_alone(course):
    before = [cell.id for cell in read(course / STUDENT).cells]
    assert len(set(before)) == len(before)
    assert sum(name.endswith("-2") and name.removesuffix("-2") in before for name in before) == 1  # two equal cells
    edit(source_path(course), "# ## Doubling", "# ## Doubling\n#\n# New words.\n\n# %% [markdown]\n# Another cell.\n")
    edit(source_path(course), "    return 2 * x", "    return x * 2")
    after = [cell.id for cell in notebook_for(lesson_of(course), student=False).cells]
    assert len(after) == len(before) + 1
    assert len(set(before) - set(after)) == 1  # the cell that was split


def test_new_words_keep_the_outputs(course):
    old = read(course / SOLUTION)
    edit(source_path(course), "Does every gate open and close?", "Do they?")
    assert build(course, check=True) == [
        f"{STUDENT}: differs from what its source builds", f"{SOLUTION}: differs from what its source builds",
    ]
    assert build(course) == []
    new = read(course / SOLUTION)
    assert "Do they?" in new.cells[0].source
    assert [cell.get("outputs") for cell in new.cells] == [cell.get("outputs") for cell in old.cells]


def test_new_code_must_be_executed(course):
    before = (course / SOLUTION).read_bytes()
    edit(source_path(course), "print(current_profile()", "print('new', current_profile()")
    stale = f"{SOLUTION}: must be executed, it is new or its code changed"
    assert build(course, check=True) == [f"{STUDENT}: differs from what its source builds", stale]
    assert build(course) == [stale]
    assert (course / SOLUTION).read_bytes() == before
    assert build(course, execute="stale") == []
    assert "new True [4.0, 4.0]" in (course / SOLUTION).read_text(encoding="utf-8")


def test_an_unexecuted_solution_is_stale(course):
    notebook = read(course / SOLUTION)
    notebook.cells[1].execution_count = None
    nbformat.write(notebook, course / SOLUTION)
    assert build(course, check=True) == [f"{SOLUTION}: must be executed, it is new or its code changed"]


def test_nothing_stale_executes_nothing(course, monkeypatch):
    monkeypatch.setattr("lora_course.teaching.authoring.run", lambda *_: pytest.fail("executed"))
    assert build(course, execute="stale") == []
    assert build(course, execute=[]) == []


@pytest.mark.parametrize("path", [STUDENT, SOLUTION])
def test_somebodys_work_is_never_overwritten(course, path):
    notebook = read(course / path)
    next(cell for cell in notebook.cells if cell.id == "ex-99-1").source = "def double(x):\n    return x + x"
    nbformat.write(notebook, course / path)
    work = (course / path).read_bytes()
    edit(source_path(course), "Does every gate open and close?", "Do they?")
    left_alone = f"{path}: edited by hand, so it is left alone; change {SLUG}.py, or move it away"
    assert left_alone in build(course, check=True)
    assert build(course, execute="stale") == [left_alone]
    assert (course / path).read_bytes() == work


FOREIGN = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'


@pytest.mark.parametrize("text", ["", "{}", "<<<<<<< HEAD", FOREIGN])
def test_what_is_not_a_notebook_of_ours_is_left_alone(course, text):
    (course / STUDENT).write_text(text)
    assert [problem.split(",")[0] for problem in build(course)] == [f"{STUDENT}: edited by hand"]
    assert (course / STUDENT).read_text() == text


def test_a_notebook_run_by_a_learner_is_rebuilt(course):
    before = (course / STUDENT).read_bytes()
    notebook = read(course / STUDENT)
    notebook.cells[1].outputs, notebook.cells[1].execution_count = [new_output("stream", text="hello")], 7
    nbformat.write(notebook, course / STUDENT)
    assert build(course, check=True) == [f"{STUDENT}: differs from what its source builds"]
    assert build(course) == []
    assert (course / STUDENT).read_bytes() == before


def test_notebooks_without_a_source_are_reported_and_kept(course):
    for folder in ("notebooks", "solutions"):
        (course / folder / "98_old.ipynb").write_text("{}")
    (course / "notebooks" / "scratch.ipynb").write_text("a learner's own")
    expected = [f"{folder}/98_old.ipynb: no source in solutions/ builds it" for folder in ("notebooks", "solutions")]
    assert build(course, check=True) == expected and build(course) == expected
    assert (course / "notebooks" / "98_old.ipynb").exists()


def test_arguments_that_mean_nothing_are_refused(course):
    with pytest.raises(ValueError, match="no such lesson: 98_x; there are: 99_fixture"):
        build(course, execute=["98_x"])
    with pytest.raises(ValueError, match="nothing to execute"):
        build(course, check=True, execute="all")


def test_a_source_that_cannot_be_built_writes_nothing(course):
    before = contents(course)
    edit(source_path(course), "Does every gate open and close?", "Do they?")
    edit(source_path(course), "    return 2 * x\n    ### END SOLUTION\n", "    return 2 * x\n")
    with pytest.raises(SourceError, match=rf"{SLUG}.py:\d+: ### BEGIN SOLUTION without"):
        build(course)
    assert contents(course) == before


def stream(text, name="stderr"):
    return new_output("stream", name=name, text=text)


def shown(**data):
    return new_output("display_data", data={key.replace("_", "/"): value for key, value in data.items()})


def live_widget():
    return new_output("display_data", data={WIDGET: {"model_id": "1"}, "text/plain": "IntSlider(value=3)"})


@pytest.mark.parametrize(
    ("outputs", "kept", "problems"),
    [
        ([stream("\r  0%|          | 0/3 [00:00<?, ?it/s]\r100%|#####| 3/3 [00:00<00:00, 9.1it/s]\n")], [], []),
        ([stream("Loading weights:  50%|█████     | 1/2 [00:00<00:00, 9.99it/s]")], [], []),
        ([stream("\r7it [00:01,  6.90it/s]\r12kB [00:02, 5.0kB/s]\n")], [], []),
        ([live_widget(), stream("hello", "stdout"), shown(text_plain="3")], [1, 2], []),
        ([live_widget(), shown(application_javascript="1", text_plain=""), shown(text_plain="3")], [2], []),
        ([stream("x.py:1: UserWarning: old\n  f()\n")], [], ["writes to stderr: x.py:1: UserWarning: old"]),
        ([stream("100%|#| 1/1 [00:00<00:00]\noops\n"), stream("a", "stdout")], [1], ["writes to stderr: oops"]),
    ],
)
def test_cleaning(outputs, kept, problems):
    cell = new_code_cell(outputs=list(outputs))
    assert clean_outputs(cell) == problems
    assert cell.outputs == [outputs[i] for i in kept]


def test_a_compared_cell_may_show_nothing_that_is_taken_out():
    cell = new_code_cell(outputs=[live_widget()], metadata={"tags": [CHECKED]})
    assert clean_outputs(cell) == [
        f"is tagged {CHECKED} but shows a progress bar, a widget or stderr, which is not saved"
    ]


def lesson(tmp_path, code):
    path = tmp_path / "solutions" / "98_try.py"
    path.parent.mkdir()
    path.write_text(code)
    return read_lesson(path, tmp_path)


def test_a_solution_runs_strict_in_its_folder_with_a_progress_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_COURSE_PROFILE", "smoke")
    where = "import os, sys\nprint(os.getcwd(), sys.executable)\n"
    settings = "print([os.environ[f'LORA_COURSE_{name}'] for name in ('STRICT', 'PROFILE', 'DATA')])\n"
    read = lesson(tmp_path, f"# %%\n{where}{settings}")
    notebook = notebook_for(read, student=False)
    assert run(read, notebook) == []
    where, settings = notebook.cells[0].outputs[0].text.splitlines()
    assert where == f"{(tmp_path / 'solutions').resolve()} {sys.executable}"
    assert settings.startswith("['1', 'cpu', ") and str(tmp_path) not in settings


def test_a_solution_that_fails_or_chatters_is_not_saved(tmp_path):
    code = "# %%\nimport sys\nprint('spam', file=sys.stderr)\n\n# %% [markdown]\n# Words.\n\n# %%\n{}\n\n# %%\n2\n"
    read = lesson(tmp_path, code.format("1 / 0"))
    assert build(tmp_path, execute="all") == ["98_try.py:8: ZeroDivisionError: division by zero"]
    read.path.write_text(code.format("1 / 1"))
    assert build(tmp_path, execute="all") == ["98_try.py:1: writes to stderr: spam"]
    assert [path.name for path in tmp_path.rglob("*.ipynb")] == ["98_try.ipynb"]
    assert (tmp_path / "notebooks" / "98_try.ipynb").exists()
