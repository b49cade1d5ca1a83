"""Every mutant judged: torch and the lesson's imports are loaded once, and each mutant gets a fork of that process.

    measure(root)        what has changed since last time -> solutions/checks.json and the page CHECKS.md
    judge_mutants(...)   mutant by mutant: named (a property was named), raised, stopped (a limit), accepted
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lora_course.teaching.answers import answer_in, module_before
from lora_course.teaching.exercises import find_exercise, judge, same_conditions
from lora_course.teaching.mutation.mutants import Mutant, mutants
from lora_course.teaching.mutation.record import Strength, fingerprint, load_record, read_lessons, write_record
from lora_course.teaching.source import Lesson

SECONDS, MEMORY = 10, 4 << 30  # processor time and bytes of address space that one mutant may take beyond ours
UNCHANGED = "nothing"
RAN_INTO = "your code runs without an error"  # the property that stands for an exception of the learner's code


@dataclass(frozen=True)
class Judged:
    """One mutant and what its check said."""

    exercise: str
    change: str
    outcome: str
    message: str


def measure(
    root: Path, number: str | None = None, say: Callable[[str], None] = print
) -> tuple[dict[str, Strength], list[Judged]]:
    """Judges the mutants of every exercise whose solution or check has changed, or of all of lesson `number`, and
    writes the record after each. Returns the record of all exercises and what was judged now.

    Raises ValueError where there is no such lesson; RuntimeError where Python cannot fork or a solution is not right.
    """
    if not hasattr(os, "fork"):
        raise RuntimeError("mutants are judged in forked processes, which this system does not have: use Linux or WSL")
    lessons = read_lessons(root)
    if number is not None and number not in {lesson.number for lesson in lessons}:
        raise ValueError(f"no lesson {number!r}; there are {', '.join(lesson.number for lesson in lessons)}")
    there = load_record(root)
    record = {i: there.get(i, Strength("")) for lesson in lessons for i in lesson.exercises}
    judged: list[Judged] = []
    for lesson in lessons:
        for exercise_id, cell in lesson.exercises.items():
            now = fingerprint(lesson, exercise_id)
            if lesson.number != number if number else record[exercise_id].fingerprint == now:
                continue
            before, found = record[exercise_id].accepted, Strength(now)
            for result in judge_mutants(lesson, exercise_id, [Mutant(UNCHANGED, cell.source), *mutants(cell)]):
                if result.change == UNCHANGED:
                    if result.outcome != "accepted":
                        raise RuntimeError(f"the solution of {exercise_id} itself is rejected: {result.message}")
                    continue
                judged.append(result)
                if result.outcome == "accepted":
                    found.accepted[result.change] = before.get(result.change, "")
                else:
                    setattr(found, result.outcome, getattr(found, result.outcome) + 1)
            record[exercise_id] = found
            say(f"{exercise_id}: {found.rejected} of {found.mutants} mutants rejected")
            write_record(root, record)
    write_record(root, record)
    return record, judged


def judge_mutants(lesson: Lesson, exercise_id: str, chosen: Iterable[Mutant]) -> Iterator[Judged]:
    """Each mutant's verdict, as soon as it is there."""
    with same_conditions(), _quiet():
        module = module_before(lesson, exercise_id)
    find_exercise(exercise_id).load_reference()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a fork has no other threads to wait for
    try:
        for mutant in chosen:
            yield _in_a_fork(module, lesson, exercise_id, mutant)
    finally:
        torch.set_num_threads(threads)


def _in_a_fork(module: types.ModuleType, lesson: Lesson, exercise_id: str, mutant: Mutant) -> Judged:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _limit_this_process()
            os.close(read)
            os.write(write, json.dumps(_verdict(module, lesson, exercise_id, mutant)).encode()[:60_000])
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    outcome, message = json.loads(said) if said else ("stopped", "a limit on time or memory ended it")
    return Judged(exercise_id, mutant.change, outcome, message)


def _verdict(module: types.ModuleType, lesson: Lesson, exercise_id: str, mutant: Mutant) -> tuple[str, str]:
    try:
        with same_conditions(), _quiet():
            answer = answer_in(module, lesson, exercise_id, mutant.source)
    except Exception as error:
        return "raised", f"the cell stops: {type(error).__name__}"
    with _quiet():
        verdict = judge(exercise_id, answer)
    said = "; ".join(f"{label}: {text}" for label, text in verdict.lines)[:2000]
    if verdict.outcome == "right":
        return "accepted", said
    return "raised" if ("Property", RAN_INTO) in verdict.lines or len(verdict.lines) == 1 else "named", said


def _limit_this_process() -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if os.path.exists("/proc/self/statm") else None
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if pages is not None:
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(12 * SECONDS)  # for one that waits instead of computing


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield
