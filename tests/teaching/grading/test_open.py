"""The same limits where the system permits no namespaces: processes are found by their group and by adoption."""

import os
import sys

import psutil
import pytest

from lora_course.teaching.grading.sandbox import Limits
from lora_course.teaching.grading.worker import Worker
from tests.teaching.grading.conftest import DOUBLE, SHIFT
from tests.teaching.grading.test_hostile import DAEMON, STORM, expect

pytestmark = pytest.mark.skipif(os.name != "posix", reason="what is prevented here needs processes as POSIX has them")


@pytest.fixture(scope="module")
def worker(fixture_course):
    with Worker(fixture_course, [], isolate=False) as worker:
        yield worker


def left_running(worker):
    return psutil.Process(worker.process.pid).children(recursive=True)


def test_a_fork_storm(grade, worker):
    rows = grade(double=STORM, shift=SHIFT, limits=Limits(seconds=60, processes=8))
    expect(rows, "error", "more than 8 processes")
    assert left_running(worker) == []


@pytest.mark.skipif(sys.platform != "linux", reason="adoption is Linux's")
def test_a_daemon_that_leaves_its_group(grade, worker):
    expect(grade(double=DAEMON, shift=SHIFT), "right", "Verified")
    assert left_running(worker) == []


def test_memory_output_and_an_early_end(grade):
    expect(grade(double="def double(x):\n    print('x' * 10**8)\n", shift=SHIFT), "error", "printed more than 1 MiB")
    expect(grade(double="import os\ndef double(x):\n    os._exit(5)\n", shift=SHIFT), "error", "with exit code 5")
    many = "def double(x):\n    y = [bytearray(2**28) for _ in range(80)]\n    return 2 * x\n"
    expect(grade(double=many, shift=SHIFT), "error", "memory limit")


def test_killing_the_grader_costs_that_answer_alone(grade, worker):
    rows = grade(double="import os\ndef double(x):\n    os.kill(os.getppid(), 9)\n    return 2 * x\n", shift=SHIFT)
    expect(rows, "error", "the process that grades ended")
    expect(grade(double=DOUBLE, shift=SHIFT), "right", "Verified")
