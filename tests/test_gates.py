"""The gates over the real lessons: what is in solutions/, notebooks/, tests/right_answers/ and tests/wrong_answers/.

That each gate can fail is shown in tests/teaching/test_gates_fire.py.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from lora_course.teaching import answers, gates
from lora_course.teaching.authoring import build
from lora_course.teaching.exercises import CHECKS, all_exercises, check
from lora_course.teaching.references import NOT_OURS
from lora_course.teaching.source import lesson_paths, read_lesson

ROOT = Path(__file__).resolve().parents[1]
RIGHT, WRONG = ROOT / "tests" / "right_answers", ROOT / "tests" / "wrong_answers"
LESSONS = [read_lesson(path, ROOT) for path in lesson_paths(ROOT)]
EXERCISES = [(lesson, exercise_id) for lesson in LESSONS for exercise_id in lesson.exercises]

each_exercise = pytest.mark.parametrize(
    ("lesson", "exercise_id"), EXERCISES, ids=[exercise_id for _, exercise_id in EXERCISES]
)


def none_of(problems):
    assert not problems, "\n".join(problems)


def test_there_is_a_lesson_to_start_with():
    assert [lesson.slug for lesson in LESSONS if lesson.number == "00"] == ["00_start"]


def test_built_notebooks_are_the_committed_ones():
    none_of(build(ROOT, check=True))


@pytest.mark.parametrize("lesson", LESSONS, ids=[lesson.slug for lesson in LESSONS])
@pytest.mark.parametrize("gate", gates.GATES, ids=lambda gate: gate.__name__)
def test_lesson(lesson, gate):
    none_of(gate(lesson))


def test_every_check_belongs_to_an_exercise_of_a_lesson():
    registered = [i for i, known in all_exercises().items() if known.check.__module__.startswith(f"{CHECKS}.")]
    assert registered == sorted(exercise_id for _, exercise_id in EXERCISES)


@each_exercise
def test_solution_cell_is_accepted_and_returned(lesson, exercise_id):
    none_of(answers.solution_problems(lesson, exercise_id))
    answer = answers.answer_from_cells(lesson, exercise_id, student=False)
    assert check(exercise_id, answer) is answer


@each_exercise
def test_stub_is_told_as_unsolved(lesson, exercise_id):
    none_of(answers.stub_problems(lesson, exercise_id))


@each_exercise
def test_reference_is_accepted_and_junk_is_not(lesson, exercise_id):
    none_of(answers.reference_problems(exercise_id) + answers.junk_problems(exercise_id))


def test_every_exercise_has_right_and_wrong_answers():
    none_of(answers.coverage_problems([exercise_id for _, exercise_id in EXERCISES], RIGHT, WRONG))


@pytest.mark.parametrize("lesson", LESSONS, ids=[lesson.slug for lesson in LESSONS])
def test_right_answers_are_other_programs_than_the_solution(lesson):
    none_of(answers.copied_answer_problems(lesson, RIGHT))


@pytest.mark.parametrize("path", answers.answer_files(WRONG), ids=lambda path: path.stem)
def test_wrong_answer_is_rejected_with_its_message(path):
    none_of(answers.wrong_answer_problems(path))


@pytest.mark.parametrize("path", answers.answer_files(RIGHT), ids=lambda path: path.stem)
def test_right_answer_is_accepted_and_returned(path):
    none_of(answers.right_answer_problems(path))
    exercise_id, _, answer = answers.load_answer(path)
    assert check(exercise_id, answer) is answer


def test_ruff_has_nothing_to_say_about_code_and_notebooks():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ids_that_lead_to_other_papers_stand_nowhere():
    allowed = {"references.py", "test_gates_fire.py"}
    texts = [path for pattern in ("*.py", "*.md", "*.ipynb") for path in ROOT.rglob(pattern)]
    ours = [path for path in texts if path.name not in allowed and not path.relative_to(ROOT).parts[0].startswith(".")]
    assert len(ours) > 20
    assert [p.name for p in ours if any(arxiv in p.read_text(encoding="utf-8") for arxiv in NOT_OURS)] == []
