"""A learner's own report: each exercise of one notebook, right, wrong with the reason, or unsolved."""

from __future__ import annotations

import textwrap
from pathlib import Path

from lora_course.teaching.exercises import all_exercises
from lora_course.teaching.grading.assignment import load_assignments
from lora_course.teaching.grading.grade import grade_submission, in_words
from lora_course.teaching.grading.sandbox import Limits
from lora_course.teaching.grading.submission import read_submission
from lora_course.teaching.grading.worker import Worker
from lora_course.teaching.notice import HEADLINE, SYMBOL

WIDTH = 100


def check_notebook(course: Path, notebook: Path, seconds: float) -> int:
    """Prints the report; returns 0 if all that is solved is right, else 1."""
    assignments = load_assignments(course)
    submission = read_submission(notebook, notebook.stem, assignments)
    if submission.refused:
        print(f"{notebook}: {submission.refused}")
        return 1
    assignment = assignments[submission.lesson]
    with Worker(course, [], isolate=False) as worker:
        rows = grade_submission(submission, assignment, worker, Limits(seconds=seconds))
    known = all_exercises()
    for row in rows:
        title = f" · {known[row.exercise].title}" if row.exercise in known else ""
        said = HEADLINE.get(row.result, "could not be checked")
        print(f"{SYMBOL.get(row.result, '!')} Exercise {row.exercise}{title}: {said}")
        if row.result in ("wrong", "error"):
            print(textwrap.fill(row.message, WIDTH, initial_indent="    ", subsequent_indent="    "))
    print(f"\n{in_words(rows)}.")
    return 1 if any(row.result in ("wrong", "error") for row in rows) else 0
