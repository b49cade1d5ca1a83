"""Answers that attack the grader, the machine or the other answers: each gets a line that says what happened.

In every test the second exercise is answered right, and must be graded so: nothing spreads.
"""

import os
import socket
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from lora_course.teaching.grading.sandbox import Limits
from tests.teaching.grading.conftest import DOUBLE, SHIFT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="what is prevented here needs processes as POSIX has them")
CHECKS = "tests.teaching.fixture_course.fixture_checks"

STORM = """
import os
def double(x):
    while True:
        try:
            os.fork()
        except OSError:
            pass
"""
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
def double(x):
    return 2 * x
"""


def code(text):
    return textwrap.dedent(text).strip() + "\n"


def expect(rows, result, fragment):
    assert (rows["99.1"].result, rows["99.2"].result) == (result, "right"), rows
    assert fragment in rows["99.1"].message, rows["99.1"].message


def test_a_right_answer_is_right(grade):
    expect(grade(double=DOUBLE, shift=SHIFT), "right", "Verified")


def test_an_answer_that_needs_numpy_only_is_right(grade):
    answer = "import numpy as np\n\n\ndef double(x):\n    return np.multiply(x.numpy(), 2)\n"
    expect(grade(double=answer, shift=SHIFT), "right", "Verified")


def test_a_wrong_answer_has_its_mistake_named(grade):
    expect(grade(double="def double(x):\n    return x * x\n", shift=SHIFT), "wrong", "Likely:")


def test_an_untouched_stub_is_unsolved(grade):
    expect(grade(shift=SHIFT), "unsolved", "handed out")


def test_a_stub_with_a_comment_is_unsolved(grade):
    expect(grade(double='def double(x):\n    # soon\n    raise NotImplementedError("Exercise 99.1: your code")\n',
                 shift=SHIFT), "unsolved", "Still to write")


@pytest.mark.parametrize(
    ("attack", "fragment"),
    [
        ("import lora_course.teaching.exercises as e\ne.judge = e.check = lambda *a: None\n", "grader"),
        ("import importlib\ne = importlib.import_module('lora_course.teaching.' + 'compare')\n"
         "e.expect_close = e.expect_equal = lambda *a, **k: None\n", None),
        ("import torch\ntorch.isclose = lambda a, *r, **k: torch.ones_like(a, dtype=torch.bool)\n", "torch.isclose"),
        ("torch.Tensor.__eq__ = lambda *a: True\n", "Tensor.__eq__"),
        ("import importlib\nb = importlib.import_module('built' + 'ins')\nb.bool = lambda *a: True\n", "builtins.bool"),
        ("import sys\nsys.modules['torch'] = None\n", "sys.modules"),
        ("import sys\nvars(sys)['mod' + 'ules']['lora_course.teaching.compare'] = None\n", None),
        ("try:\n    1 / 0\nexcept Exception as e:\n    getattr(e.__traceback__, 'tb_' + 'frame')\n", "tb_frame"),
        ("import gc\n[o for o in gc.get_objects() if type(o).__name__ == 'Exercise']\n", "gc.get_objects"),
        ("print('99.1 right'); print('{\"result\": \"right\"}')\n", None),
    ],
    ids=["patch check", "patch compare", "patch torch", "patch tensor", "patch builtins", "sys.modules",
         "sys.modules by another name", "frames", "objects", "prints a verdict"],
)  # fmt: skip
def test_a_wrong_answer_cannot_make_itself_right(grade, attack, fragment):
    rows = grade(double=attack + "\n\ndef double(x):\n    return x * x\n", shift=SHIFT)
    expect(rows, "error" if fragment else "wrong", fragment or "Likely:")
    assert not fragment or "tampered: " in rows["99.1"].message


def test_check_cells_edited_or_deleted_change_nothing(grade, notebook):
    import json

    made = notebook(double="def double(x):\n    return x * x\n", shift=SHIFT)
    kept = [cell for cell in made["cells"] if cell["id"] != "chk-99-2"]
    next(cell for cell in kept if cell["id"] == "chk-99-1")["source"] = "print('right')"
    expect(grade(json.dumps(made | {"cells": kept}).encode()), "wrong", "Likely:")


def test_writing_to_every_open_file_is_no_verdict(grade):
    attack = """
        import os
        def double(x):
            for number in range(3, 256):
                try:
                    os.write(number, b'["", "right", "Verified"]')
                except OSError:
                    pass
            os._exit(0)
    """
    expect(grade(double=code(attack), shift=SHIFT), "error", "tampered")


@pytest.mark.parametrize("way", ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_ending_the_process_is_told(grade, way):
    rows = grade(double=f"import os\ndef double(x):\n    {way}\n", shift=SHIFT)
    expect(rows, "error", "before the check had finished")


def test_killing_every_process_it_can_reach_finds_none(grade, worker):
    if worker.process is None:
        grade(double=DOUBLE)
    if not worker.isolate:
        pytest.skip("without namespaces this would reach the processes of whoever runs the tests")
    rows = grade(double="import os\ndef double(x):\n    os.kill(-1, 9)\n    return 2 * x\n", shift=SHIFT)
    expect(rows, "wrong", "ProcessLookupError")
    assert worker.process.poll() is None


def test_an_exit_is_an_error_of_the_answer(grade):
    expect(grade(double="import sys\ndef double(x):\n    sys.exit(0)\n", shift=SHIFT), "wrong", "SystemExit")


def test_an_infinite_loop_is_stopped(grade, monkeypatch):
    rows = grade(double="def double(x):\n    while True:\n        pass\n", limits=Limits(seconds=1))
    assert rows["99.1"].result == "error" and "longer than 1 s" in rows["99.1"].message


def test_a_fork_storm_is_stopped_and_nothing_of_it_is_left(grade, worker):
    rows = grade(double=STORM, shift=SHIFT, limits=Limits(seconds=60, processes=8))
    expect(rows, "error", "more than 8 processes")
    runner = psutil.Process(worker.process.pid).children(recursive=True)
    assert len(runner) <= 1, runner  # the runner itself, below unshare


def test_a_daemon_that_leaves_its_group_is_killed(grade, worker):
    expect(grade(double=DAEMON, shift=SHIFT), "right", "Verified")
    assert len(psutil.Process(worker.process.pid).children(recursive=True)) <= 1


@pytest.mark.parametrize("way", ["torch.empty(20 * 2**30, dtype=torch.uint8)", "bytearray(20 * 2**30)"])
@pytest.mark.skipif(sys.platform != "linux", reason="the limit on address space is Linux's")
def test_twenty_gigabytes_are_refused(grade, way):
    rows = grade(double=f"def double(x):\n    y = {way}\n    return 2 * x\n", shift=SHIFT)
    expect(rows, "error", "memory limit of 4096 MiB")


def test_a_gigabyte_of_output_is_cut_off(grade):
    flood = "def double(x):\n    for _ in range(1000):\n        print('x' * 10**6)\n    return 2 * x\n"
    expect(grade(double=flood, shift=SHIFT), "error", "printed more than 1 MiB")


def test_deleting_files_deletes_none(grade, worker, tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("here")
    attack = f"""
        import os
        def double(x):
            os.remove({str(precious)!r})
            return 2 * x
    """
    if worker.process is None:
        grade(double=DOUBLE)
    if not worker.isolate:
        pytest.skip("without namespaces, files are not protected, and the report says so")
    expect(grade(double=code(attack), shift=SHIFT), "wrong", "Read-only file system")
    assert precious.read_text() == "here"


def test_what_an_answer_writes_is_gone_for_the_next(grade, worker):
    write = "import pathlib\npathlib.Path.home().joinpath('note').write_text('x')\ndef double(x):\n    return x * x\n"
    read = SHIFT + "\nimport os\nassert os.listdir(os.path.expanduser('~')) == [], os.listdir('.')\n"
    expect(grade(double=write, shift=read), "wrong", "Likely:")


def test_there_is_no_network(grade, worker):
    if worker.process is None:
        grade(double=DOUBLE)
    if not worker.isolate:
        pytest.skip("without namespaces the network is open, and the report says so")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        attack = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=5)\n"
        expect(grade(double=attack + DOUBLE, shift=SHIFT), "wrong", "the cell stops in line 2")


def test_no_credentials_and_another_home(grade, monkeypatch):
    look = f"""
        import os
        def double(x):
            if "SECRET_TOKEN" in os.environ or os.path.expanduser("~") == {os.path.expanduser("~")!r}:
                return x
            return 2 * x
    """
    expect(grade(double=code(look), shift=SHIFT), "right", "Verified")


@pytest.fixture(scope="session", autouse=True)
def a_secret():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET_TOKEN", "tell nobody")
        yield


@pytest.mark.parametrize(
    "way",
    [
        f"from {CHECKS} import double\n",
        "from lora_course.teaching.checks.lesson_01 import truncate\n" + DOUBLE,
        "from lora_course.teaching.exercises import find_exercise\ndouble = find_exercise('99.1').load_reference()\n",
        f"import importlib\ndouble = importlib.import_module({CHECKS!r}).double\n",
        "import importlib\nimportlib.import_module('lora_course.teaching.che' + 'cks.lesson_01')\n" + DOUBLE,
    ],
    ids=["imports it", "imports a lesson's checks", "asks for it", "is it", "imports checks by another name"],
)
def test_reading_the_reference_is_told(grade, way):
    rows = grade(double=way, shift=SHIFT)
    assert rows["99.1"].result == "error" and rows["99.2"].result == "right", rows
    assert "reference" in rows["99.1"].message or "grader" in rows["99.1"].message


def test_the_reference_is_not_on_the_disk(grade, worker, fixture_course):
    path = fixture_course / "solutions" / "99_fixture.py"
    rows = grade(double=f"def double(x):\n    open({str(path)!r}).read()\n    return 2 * x\n", shift=SHIFT)
    assert rows["99.1"].result == "error" and "reads the reference" in rows["99.1"].message


def test_an_earlier_wrong_answer_does_not_disturb_a_later_exercise(grade):
    expect(grade(double="double = None\nnn = None\n", shift=SHIFT), "wrong", "Yours")


def test_the_graders_own_folders_are_clean(worker):
    assert [path.name for path in Path(worker.folder).iterdir()] == []
