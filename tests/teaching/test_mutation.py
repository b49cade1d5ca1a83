"""Mutants: what is changed in a solution, how one is judged, and that the committed record is complete and of today."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from lora_course.teaching.mutation import record as kept
from lora_course.teaching.mutation.measure import measure
from lora_course.teaching.mutation.mutants import mutants
from lora_course.teaching.source import Cell
from tests.teaching.conftest import HERE, REPOSITORY, edit, lesson_of, source_path
from tests.teaching.fixture_course import fixture_checks  # noqa: F401 (registers 99.1 and 99.2)

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="mutants are judged in forks")
BY_HAND = """
import json, sys
from pathlib import Path
from lora_course.teaching.mutation import measure
from lora_course.teaching.mutation.mutants import Mutant
from lora_course.teaching.mutation.record import read_lessons
measure.SECONDS = 1
(lesson,) = read_lessons(Path(sys.argv[1]))
head = "def double(x):\\n    "
bodies = ["return x + x", "return x * x", "return x.nothing", "while True: pass", "import os; os._exit(0)"]
judged = measure.judge_mutants(lesson, "99.1", [Mutant(body, head + body) for body in bodies])
print(json.dumps([one.outcome for one in judged]))
"""
COMMAND = """
import sys
import tests.teaching.fixture_course.fixture_checks
from lora_course.cli import main
sys.exit(main(["mutate", *sys.argv[1:]]))
"""
SAMPLE = """
import json, sys
from pathlib import Path
from lora_course.teaching.mutation import measure
from lora_course.teaching.mutation.mutants import mutants
from lora_course.teaching.mutation.record import read_lessons
chosen = json.loads(sys.argv[2])
for lesson in read_lessons(Path(sys.argv[1])):
    for i, cell in lesson.exercises.items():
        few = [mutant for mutant in mutants(cell) if mutant.change in chosen[i]]
        for one in measure.judge_mutants(lesson, i, few):
            print(json.dumps([i, one.change, one.outcome]))
"""


@pytest.fixture
def course(tmp_path):
    """The sources of the fixture lesson; nothing built."""
    shutil.copytree(HERE / "fixture_course" / "solutions", tmp_path / "course" / "solutions")
    return tmp_path / "course"


def cell(*lines, head="def answer(x, A, B, n):"):
    body = ["### BEGIN SOLUTION", *lines, "### END SOLUTION", "kept = 1 + 1"]
    return Cell("code", "\n".join([head, *(f"    {line}" for line in body)]), 1, exercise="99.1", metadata={})


def python(*arguments, cwd):
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900
    )


@pytest.mark.parametrize(
    ("line", "mistakes"),
    [
        ("return A - B", ["return A + B", "return B - A", "return A", "return B"]),
        ("return A * 2", ["return A / 2", "return A", "return A * 3", "return A * 1", "return A * 0", "return B * 2"]),
        ("return x @ A.T", ["return x @ A", "return (x @ A.T).T", "return x.T @ A.T", "return A.T @ x"]),
        ("return n < 3", ["return n <= 3", "return n >= 3"]),
        ("return not n", ["return n"]),
        ("return -n", ["return n"]),
        ("return A if n else B", ["return B if n else A", "return A", "return B"]),
        ("return A and B", ["return A or B"]),
        ("return [a for a in A if a]", ["return [a for a in A]"]),
        ("return torch.zeros(n, 4)", ["return torch.ones(n, 4)", "return torch.randn(n, 4)",
                                      "return torch.zeros(4, n)"]),
        ("return x.detach().sum(dim=1)", ["return x.sum(dim=1)", "return x.detach().sum(dim=0)",
                                          "return x.detach().sum()", "return x.detach().mean(dim=1)"]),
        ("return A[:, :n]", ["return A[:, :n + 1]", "return A[:, n:]", "return A[:, -n:]", "return A[:n, :]",
                              "return A"]),
        ("return x[::2]", ["return x[1::2]"]),
        ("return A, B", ["return (B, A)"]),
        ("return min(n, 1)", ["return max(n, 1)", "return n"]),
    ],
)  # fmt: skip
def test_plausible_mistakes_are_made(line, mistakes):
    made = [mutant.source for mutant in mutants(cell(line))]
    assert all(any(f"    {mistake}\n" in source for source in made) for mistake in mistakes), made
    assert all("kept = 1 + 1" in source for source in made), "only what lies between the markers changes"


def test_statements_are_forgotten_and_blocks_opened():
    lines = ("with torch.no_grad():", "    x += A", "x.sub_(B)", "for a in A:", "    x = a * x", "return x")
    made = {mutant.change for mutant in mutants(cell(*lines))}
    assert made >= {
        "without `with torch.no_grad():`, but with what stands in it",
        "`with torch.no_grad():` became `with torch.enable_grad():`",
        "without `x += A`", "`x += A` became `x = A`", "`x += A` became `x = x + A`",
        "without `x.sub_(B)`",
        "`for a in A:` stops after its first turn",
        "without `x = a * x`",
    }  # fmt: skip


def test_a_detach_is_added_where_gradients_must_flow():
    head = "def forward(x, A, B, n):"
    made = {mutant.change for mutant in mutants(cell("return x @ A", head=head))}
    assert "`return x @ A` became `return x.detach() @ A`" in made
    assert not any("detach" in mutant.change for mutant in mutants(cell("return x @ A", head="def count(x, A):")))


def test_no_two_mutants_are_the_same_and_all_are_programs(course):
    for exercise in lesson_of(course).exercises.values():
        made = mutants(exercise)
        assert len(made) > 3
        assert len({mutant.change for mutant in made}) == len({mutant.source for mutant in made}) == len(made)
        for mutant in made:
            compile(mutant.source, "mutant", "exec")


@forks
def test_each_outcome(course):
    done = python("-c", BY_HAND, str(course), cwd=course)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["accepted", "named", "raised", "stopped", "stopped"]


@forks
def test_the_command_measures_what_changed_and_keeps_reasons(course, tmp_path):
    told = tmp_path / "all.json"
    first = python("-c", COMMAND, "--json", str(told), cwd=course)
    assert first.returncode == 1 and "does not say why" in first.stdout, first.stdout + first.stderr
    found = kept.load_record(course)
    assert set(found) == {"99.1", "99.2"}
    assert len(json.loads(told.read_text())) == sum(strength.mutants for strength in found.values())
    assert "__init__: `self.by = by * STEP` became `self.by = by / STEP`" in found["99.2"].accepted

    for strength in found.values():
        strength.accepted = dict.fromkeys(strength.accepted, "STEP is 1, so nothing changes")
    kept.write_record(course, found)
    edit(source_path(course), "return 2 * x", "return x * 2")
    (stale, *_) = kept.problems(course, found)
    assert stale.startswith("99.1: solution or check changed")
    again = python("-c", COMMAND, cwd=course)
    assert "99.1:" in again.stdout and "99.2:" not in again.stdout and "does not say why" not in again.stdout
    assert kept.load_record(course)["99.2"] == found["99.2"]
    page = (course / kept.PAGE).read_text(encoding="utf-8")
    assert page == kept.report(kept.load_record(course)) and "STEP is 1, so nothing changes" in page
    with pytest.raises(ValueError, match="no lesson '07'; there are 99"):
        measure(course, "07")


def test_weak_checks_are_a_problem(course):
    lesson = lesson_of(course)
    weak = {i: kept.Strength(kept.fingerprint(lesson, i), named=9, accepted={"x": "why"}) for i in lesson.exercises}
    assert kept.problems(course, weak) == ["90.0% of the mutants are rejected; 95% is wanted"]


def test_the_committed_record_is_of_today_complete_and_above_the_mark():
    record = kept.load_record(REPOSITORY)
    assert kept.problems(REPOSITORY, record) == []
    assert (REPOSITORY / kept.PAGE).read_text(encoding="utf-8") == kept.report(record)


@forks
def test_a_sample_of_mutants_comes_out_as_recorded():
    """One of each exercise, of which it makes no difference who chose: that with the smallest hash."""
    record = kept.load_record(REPOSITORY)
    lessons = kept.read_lessons(REPOSITORY)
    chosen = {
        i: min((mutant.change for mutant in mutants(cell)), key=lambda change: hashlib.sha256(change.encode()).digest())
        for lesson in lessons
        for i, cell in lesson.exercises.items()
    }
    one_each = json.dumps({i: [change] for i, change in chosen.items()})
    done = python("-c", SAMPLE, str(REPOSITORY), one_each, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    judged = [json.loads(line) for line in done.stdout.splitlines()]
    assert {i: change for i, change, _ in judged} == chosen
    assert [i for i, change, outcome in judged if (outcome == "accepted") != (change in record[i].accepted)] == []
