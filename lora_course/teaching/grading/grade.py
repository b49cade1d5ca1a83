"""A folder of submissions becomes a list of results: in parallel, one file each on disk, resumable.

    grade_folder(course, submissions, out, jobs=2)
writes out/results/NAME.json as soon as a submission is done, out/copies/NAME.ipynb (the lesson as its source builds it
with these answers: what was graded), and then the reports. A second run grades only what is new: another file, another
version of the course, or other limits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

from lora_course.atomic import write_files
from lora_course.teaching.grading.assignment import Assignment, graded_copy, load_assignments
from lora_course.teaching.grading.sandbox import Limits
from lora_course.teaching.grading.submission import Submission, find_submissions, read_submission, submission_name
from lora_course.teaching.grading.worker import Worker

RESULTS = ("right", "wrong", "unsolved", "error")


@dataclass(frozen=True)
class Row:
    """One line of the table. exercise: "-" where a file could not be graded at all."""

    submission: str
    exercise: str
    result: str
    message: str


@dataclass(frozen=True)
class Class:
    """All that a report needs. notes: what this machine could not prevent; reused: submissions graded earlier."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    reused: int


def grade_folder(
    course: Path,
    submissions: Path,
    out: Path,
    jobs: int = 1,
    limits: Limits | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Class:
    """Grades every notebook under `submissions`. Raises SourceError for a lesson that cannot be built, OSError where
    `out` cannot be written."""
    limits = limits or Limits()
    assignments = load_assignments(course)
    paths = find_submissions(submissions)
    for folder in (out / "results", out / "copies"):
        folder.mkdir(parents=True, exist_ok=True)
    idle: SimpleQueue[Worker] = SimpleQueue()
    workers = [Worker(course, [submissions, out]) for _ in range(max(1, min(jobs, len(paths))))]
    for worker in workers:
        idle.put(worker)

    def one(path: Path) -> tuple[list[Row], bool]:
        submission = read_submission(path, submission_name(path, submissions), assignments)
        worker = idle.get()
        try:
            rows, reused = _settled(submission, assignments.get(submission.lesson), worker, limits, out)
        finally:
            idle.put(worker)
        say(f"{submission.name}: {in_words(rows)}{' (as before)' if reused else ''}")
        return rows, reused

    try:
        with ThreadPoolExecutor(len(workers)) as pool:
            graded = list(pool.map(one, paths))
    finally:
        for worker in workers:
            worker.__exit__()
    notes = dict.fromkeys(note for worker in workers for note in worker.notes)
    rows = tuple(row for found, _ in graded for row in found)
    return Class(rows, tuple(notes), sum(reused for _, reused in graded))


def grade_submission(
    submission: Submission, assignment: Assignment | None, worker: Worker, limits: Limits
) -> list[Row]:
    """A row for each exercise of the lesson, or one row that says why there is none."""
    if submission.refused or assignment is None:
        return [Row(submission.name, "-", "error", submission.refused or "no such lesson")]
    stubs = {step.exercise: step.source for step in assignment.steps if step.exercise}
    right: dict[str, str] = {}
    rows = []
    for exercise_id in assignment.exercise_ids:
        answer = submission.answers.get(exercise_id)
        if exercise_id in submission.problems:
            result, message = "error", submission.problems[exercise_id]
        elif answer is None:
            result, message = "error", f"no cell carries the id of exercise {exercise_id}"
        elif answer.strip() in ("", stubs[exercise_id].strip()):
            result, message = "unsolved", "as it was handed out" if answer.strip() else "the cell is empty"
        else:
            result, message = worker.examine(assignment, exercise_id, right | {exercise_id: answer}, limits)
        if result == "right":
            right[exercise_id] = answer
        rows.append(Row(submission.name, exercise_id, result, message))
    return rows


def in_words(rows: list[Row] | tuple[Row, ...]) -> str:
    """"3 right, 1 wrong, 1 error"."""
    counts = {result: sum(row.result == result for row in rows) for result in RESULTS}
    return ", ".join(f"{count} {result}" for result, count in counts.items() if count)


def safe_name(name: str) -> str:
    """A file name for a submission or a learner: readable, short, and different for different names."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]
    return f"{readable}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"


def _settled(
    submission: Submission, assignment: Assignment | None, worker: Worker, limits: Limits, out: Path
) -> tuple[list[Row], bool]:
    """From an earlier run if nothing has changed, else graded now and written down."""
    name = safe_name(submission.name)
    path = out / "results" / f"{name}.json"
    key = {"file": submission.digest, "course": assignment.digest if assignment else "", "limits": asdict(limits)}
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["key"] == key:
            return [Row(**row) for row in saved["rows"]], True
    except (OSError, ValueError, KeyError, TypeError):
        pass
    rows = grade_submission(submission, assignment, worker, limits)
    text = json.dumps({"key": key, "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
    files = {path: text}
    if assignment and not submission.refused:
        import nbformat

        files[out / "copies" / f"{name}.ipynb"] = nbformat.writes(graded_copy(assignment, submission.answers)) + "\n"
    write_files(files)
    return rows, False
