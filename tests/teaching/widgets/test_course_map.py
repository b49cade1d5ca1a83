"""The map says what is recorded, follows it, and stops for no broken folder."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_course.teaching import progress as store
from lora_course.teaching.exercises import all_exercises
from lora_course.teaching.progress import progress, progress_folder, record
from lora_course.teaching.widgets import course_map
from tests.teaching.widgets import grid


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(store, "_warned", False)
    monkeypatch.setattr(course_map, "_shown", [])


def press(panel, name):
    next(b for b in panel.children[0].children if b.description == name).click()


def squares(panel):
    """Exercise id -> what its square says, and the sign on it."""
    groups = grid.parsed(panel.picture.value).iter(f"{grid.SVG}g")
    found = {}
    for group in groups:
        title, texts = group[0].text, [e.text for e in group.iter(f"{grid.SVG}text")]
        found[title.split()[0]] = (title.rpartition(": ")[2], texts[0] if len(texts) == 2 else "")
    return found


def test_every_exercise_has_a_square_that_says_its_outcome():
    ids = list(all_exercises())
    panel = course_map.explore()
    assert list(squares(panel)) == ids and {square for square in squares(panel).values()} == {("not begun", "")}
    for exercise_id, outcome in zip(ids, ("right", "wrong", "unsolved"), strict=False):
        record(exercise_id, outcome)
    press(panel, "Look again")
    _, sentence = grid.shown(panel)
    assert [squares(panel)[i] for i in ids[:4]] == [
        ("right", "✓"), ("not right yet", "✗"), ("looked at", "○"), ("not begun", "")
    ]  # fmt: skip
    assert sentence.startswith(f"1 of {len(ids)} exercises are right. Next: exercise {ids[1]}, ")
    assert f"1 of {len(ids)} exercises" in grid.words(panel.picture.value)


def test_the_next_step_goes_on_where_you_are_then_back_to_what_was_left_out():
    course = course_map.lessons(all_exercises(), Path("/nowhere"))
    ids = list(all_exercises())
    right = dict.fromkeys(ids, "right")
    assert course_map.next_step(course, {}).id == ids[0]
    assert course_map.next_step(course, {ids[2]: "right", ids[0]: "wrong"}).id == ids[3]
    assert course_map.next_step(course, right | {ids[1]: "wrong"}).id == ids[1]
    assert course_map.next_step(course, right) is None
    assert "You have solved them all." in course_map.draw(course, right | {"77.7": "right"}).summary


def test_lessons_are_named_after_the_notebooks_there_are(tmp_path):
    (tmp_path / "00_start.ipynb").touch()
    (tmp_path / "02_the_lora_layer.ipynb").touch()
    course = {lesson.number: lesson for lesson in course_map.lessons(all_exercises(), tmp_path)}
    assert (course["00"].name, course["02"].name, course["01"].name) == ("start", "the lora layer", "")
    assert [e.id for lesson in course.values() for e in lesson.exercises] == list(all_exercises())


def test_reset_asks_twice():
    record("02.1", "right")
    panel = course_map.explore()
    press(panel, "Reset")
    assert progress() == {"02.1": "right"} and "Nothing is forgotten yet" in panel.sentence.value
    box = next(b for b in panel.children[0].children if b.description == "Really forget everything")
    box.value = True
    press(panel, "Reset")
    assert progress() == {} and not box.value
    assert grid.shown(panel)[1].startswith("0 of ")


def test_export_writes_one_file_or_says_why_not(tmp_path):
    record("02.1", "right")
    panel = course_map.explore(tmp_path)
    press(panel, "Export")
    assert list(json.loads((tmp_path / "progress.json").read_text())) == ["02.1"]
    assert f"Written to {tmp_path / 'progress.json'}." in panel.sentence.value
    where = next(b for b in panel.children[0].children if b.description == "Export to")
    where.value = str(tmp_path / "missing" / "progress.json")
    press(panel, "Export")
    assert "could not be written" in panel.sentence.value and "missing" in panel.sentence.value


@pytest.mark.parametrize("rubbish", ["{", "[]", '{"first": 1}'])
def test_a_broken_record_is_an_exercise_not_begun(rubbish):
    progress_folder().mkdir(parents=True)
    (progress_folder() / "02.1.right.json").write_text(rubbish)
    assert squares(course_map.explore())["02.1"] == ("not begun", "")


def test_a_folder_that_cannot_be_stops_nothing(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LORA_COURSE_DATA", str(tmp_path / "file"))
    panel = course_map.explore()
    assert grid.shown(panel)[1].startswith("0 of ")
    press(panel, "Look again")
    assert capsys.readouterr().err.count("Your progress cannot be kept") == 1


def test_records_that_cannot_be_deleted_are_said(monkeypatch):
    record("02.1", "right")
    panel = course_map.explore()
    next(b for b in panel.children[0].children if b.description == "Really forget everything").value = True

    def refuse(path, **_):
        raise PermissionError("not yours")

    monkeypatch.setattr(store.Path, "unlink", refuse)
    press(panel, "Reset")
    assert "could not be deleted: not yours" in panel.sentence.value and progress() == {"02.1": "right"}


def test_after_every_cell_the_last_map_looks_again(monkeypatch):
    callbacks = []
    events = SimpleNamespace(
        callbacks={"post_run_cell": callbacks}, register=lambda event, function: callbacks.append(function)
    )
    shell = SimpleNamespace(events=events)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    first, last = course_map.explore(), course_map.explore()
    assert callbacks == [course_map.update_shown]
    record("00.1", "right")
    callbacks[0](None)
    assert squares(last)["00.1"] == ("right", "✓") and squares(first)["00.1"] == ("not begun", "")


def test_controls_are_labelled_and_the_static_picture_stands_alone():
    grid.all_controls_are_labelled(course_map.explore())
    record("00.1", "right")
    root, alternative = grid.image_of(course_map.static())
    assert "0 of" in alternative and root[1].text in alternative
