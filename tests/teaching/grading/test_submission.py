"""Notebooks that are none, or half: each is read without an exception and says in a sentence what is wrong."""

import json
import os

import pytest

from lora_course.teaching.grading import submission as module
from lora_course.teaching.grading.submission import find_submissions, read_submission, submission_name
from tests.teaching.grading.conftest import DOUBLE, SHIFT

LESSONS = ("01", "99")


def read(path):
    return read_submission(path, path.stem, LESSONS)


@pytest.fixture
def write(tmp_path):
    def put(content, name="alice.ipynb"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return put


def test_answers_are_found_by_metadata_or_by_cell_id(write, notebook):
    made = notebook(double=DOUBLE, shift=SHIFT)
    for cell in made["cells"]:
        if cell["id"] == "ex-99-1":
            del cell["metadata"]["nbgrader"]
        if cell["id"] == "ex-99-2":
            cell["id"] = "changed"
    found = read(write(made))
    assert (found.lesson, found.answers, found.refused) == ("99", {"99.1": DOUBLE, "99.2": SHIFT}, None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"def double(x): return 2 * x", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1, 2]", "without the field nbformat"),
        (b'{"nbformat": 3, "worksheets": []}', "format 3"),
        (b'{"nbformat": 4}', "no list of cells"),
        (b'{"nbformat": 4, "cells": []}', "not a notebook of this course"),
        (b'{"nbformat": 4, "cells": [1, {"cell_type": "code", "metadata": 3, "source": 7}]}', "not a notebook of this"),
        (b'{\n<<<<<<< HEAD\n"nbformat": 4,\n=======\n>>>>>>> other\n}', "merge-conflict markers"),
        ("{\"nbformat\": 4}".encode("utf-16"), "not UTF-8"),
        (b'{"nbformat": 4, "cells": "\xe9"}', "not UTF-8"),
    ],
)  # fmt: skip
def test_what_is_no_notebook_is_refused(write, content, reason):
    assert reason in read(write(content)).refused


def test_windows_line_ends_and_a_byte_order_mark_are_harmless(write, notebook):
    text = json.dumps(notebook(double=DOUBLE.replace("\n", "\r\n"), shift=SHIFT), indent=1).replace("\n", "\r\n")
    assert read(write(b"\xef\xbb\xbf" + text.encode())).answers == {"99.1": DOUBLE, "99.2": SHIFT}


def test_merge_conflict_inside_a_cell(write, notebook):
    made = notebook(double="def double(x):\n<<<<<<< HEAD\n    return x\n=======\n    return 2 * x\n>>>>>>> b\n")
    assert read(write(made)).problems == {"99.1": "merge-conflict markers in line 2 of the cell"}


def test_missing_and_duplicated_cells(write, notebook):
    made = notebook(double=DOUBLE, shift=SHIFT)
    cells = [cell for cell in made["cells"] if cell["id"] != "ex-99-2"]
    first = next(cell for cell in cells if cell["id"] == "ex-99-1")
    found = read(write(made | {"cells": [*cells, first | {"source": "double = None"}]}))
    assert found.answers == {} and "2 different cells carry" in found.problems["99.1"]
    assert read(write(made | {"cells": [*cells, first]})).answers == {"99.1": DOUBLE}, "an exact copy does no harm"


def test_another_lessons_notebook(write, notebook):
    found = read(write(notebook(double=DOUBLE), "01_low_rank.ipynb"))
    assert "its cells are those of lesson 99" in found.refused and found.lesson == "01"


def test_huge_outputs_are_not_looked_at(write, notebook):
    made = notebook(double=DOUBLE, shift=SHIFT)
    made["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 20_000_000}]
    assert read(write(made)).answers["99.1"] == DOUBLE


def test_a_file_too_large_is_not_read(write, notebook, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 1000)
    assert "clear its outputs" in read(write(notebook())).refused
    monkeypatch.setattr(module, "LARGEST", 10**8)
    assert "an answer has at most" in read(write(notebook(double="#" * 200_000))).problems["99.1"]


@pytest.mark.skipif(os.name != "posix", reason="links and pipes as POSIX has them")
def test_links_and_pipes_are_not_opened(tmp_path, write, notebook):
    target = write(notebook(double=DOUBLE))
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "eve.ipynb").symlink_to(target)
    (tmp_path / "class" / "way_out").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "class" / "pipe.ipynb")
    found = find_submissions(tmp_path / "class")
    assert [path.name for path in found] == ["eve.ipynb", "pipe.ipynb"], "a folder that is a link is not entered"
    assert "symbolic link" in read(found[0]).refused and "not an ordinary file" in read(found[1]).refused


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such names")
def test_names_are_made_harmless(tmp_path):
    for raw in (b"a\nb.ipynb", b"\xff.ipynb", b"..%2f..%2fetc.ipynb"):
        open(os.path.join(os.fsencode(tmp_path), raw), "wb").close()
    names = [submission_name(path, tmp_path) for path in find_submissions(tmp_path)]
    assert len(names) == 3
    for name in names:
        assert "\n" not in name and name.encode("utf-8")
