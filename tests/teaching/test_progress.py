import json
import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from lora_course.teaching import progress as module
from lora_course.teaching.progress import export, progress, progress_folder, record, reset


@pytest.fixture(autouse=True)
def not_warned(monkeypatch):
    monkeypatch.setattr(module, "_warned", False)


def test_right_stays_right_and_else_the_latest_outcome_counts():
    record("02.1", "unsolved")
    record("02.1", "right")
    record("02.1", "wrong")
    record("10.2", "unsolved")
    record("10.2", "wrong")
    record("02.10", "wrong")
    record("02.10", "unsolved")
    assert progress() == {"02.1": "right", "02.10": "unsolved", "10.2": "wrong"}
    assert list(progress()) == ["02.1", "02.10", "10.2"]


def test_nothing_recorded_yet_is_an_empty_dict_and_no_folder():
    assert progress() == {}
    assert not progress_folder().exists()


@pytest.mark.parametrize("arguments", [("02.1", "perfect"), ("../x", "right"), ("2.1", "right")])
def test_a_mistake_of_the_course_is_an_error(arguments):
    with pytest.raises(ValueError, match="an outcome is one of unsolved, wrong, right"):
        record(*arguments)


def test_without_the_variable_the_users_own_folder_is_meant(monkeypatch):
    monkeypatch.delenv("LORA_COURSE_DATA")
    monkeypatch.setattr(module.platformdirs, "user_data_dir", lambda name, appauthor: f"/data/{name}")
    assert progress_folder() == Path("/data/lora_course/progress")


def test_a_folder_that_cannot_be_is_mentioned_once_and_breaks_nothing(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LORA_COURSE_DATA", str(tmp_path / "file"))
    record("02.1", "right")
    record("02.2", "right")
    assert progress() == {}
    assert capsys.readouterr().err.count("Your progress cannot be kept") == 1


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user whom file modes bind (not root)")
def test_a_read_only_folder_breaks_nothing(capsys):
    progress_folder().mkdir(parents=True)
    progress_folder().chmod(0o500)
    record("02.1", "right")
    progress_folder().chmod(0o700)
    assert progress() == {} and "cannot be kept" in capsys.readouterr().err


def test_a_full_disk_leaves_the_old_record_and_no_rest(monkeypatch, capsys):
    record("02.1", "right")
    before = (progress_folder() / "02.1.right.json").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    record("02.1", "right")
    assert (progress_folder() / "02.1.right.json").read_bytes() == before
    assert [path.name for path in progress_folder().iterdir()] == ["02.1.right.json"]
    assert "No space left" in capsys.readouterr().err


@pytest.mark.parametrize("rubbish", ["", "{", "[]", "null", '{"first": 1, "last": 2}', "\x00"])
def test_a_broken_record_counts_as_missing_and_heals(rubbish):
    record("02.2", "right")
    (progress_folder() / "02.1.right.json").write_text(rubbish)
    assert list(progress()) == ["02.2"]
    record("02.1", "right")
    assert progress()["02.1"] == "right"


def test_reset_takes_our_files_and_no_other():
    record("02.1", "right")
    (progress_folder() / "notes.json").write_text("mine")
    reset()
    assert progress() == {}
    assert [path.name for path in progress_folder().iterdir()] == ["notes.json"]
    reset()


def test_export_holds_first_and_last_times(tmp_path):
    record("02.1", "wrong")
    record("02.1", "right")
    record("02.1", "right")
    path = tmp_path / "mine.json"
    assert export(path) == path
    written = json.loads(path.read_text())
    assert list(written) == ["02.1"]
    wrong, right = written["02.1"]["wrong"], written["02.1"]["right"]
    assert wrong["first"] == wrong["last"] < right["first"] < right["last"]
    with pytest.raises(FileNotFoundError):
        export(tmp_path / "nowhere" / "mine.json")


def _a_kernel(start, outcomes):
    start.wait()
    for outcome in outcomes:
        record("02.1", outcome)
        record("02.2", outcome)
        assert progress()["02.1"] in ("right", "wrong", "unsolved")


def test_kernels_that_write_at_once_lose_nothing():
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    histories = (["right", "wrong"] * 30, ["wrong", "unsolved"] * 30, ["unsolved", "wrong", "wrong"] * 20)
    kernels = [context.Process(target=_a_kernel, args=(start, history)) for history in histories]
    for kernel in kernels:
        kernel.start()
    for kernel in kernels:
        kernel.join(60)
    assert [kernel.exitcode for kernel in kernels] == [0, 0, 0]
    assert progress() == {"02.1": "right", "02.2": "right"}
    names = sorted(path.name for path in progress_folder().iterdir())
    assert names == sorted(f"{i}.{o}.json" for i in ("02.1", "02.2") for o in ("right", "wrong", "unsolved"))
