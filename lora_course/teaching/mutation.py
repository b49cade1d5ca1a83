"""How strong are the checks? Every mutant of every solution is judged, and a check should reject it.

    measure(root)        judges what has changed since last time -> solutions/checks.json and the page CHECKS.md
    judge_mutants(...)   mutant by mutant: named (a property was named), raised, stopped (a limit), accepted
Mutants come from `mutators`. Each is judged in a fork of this process, where torch and the lesson's imports are loaded
already, under limits on processor time and memory. What a check accepts stands in checks.json, where a person adds why.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch

from lora_course.atomic import replace_files
from lora_course.teaching import mutators
from lora_course.teaching.answers import answer_in, module_before
from lora_course.teaching.exercises import find_exercise, judge, same_conditions
from lora_course.teaching.mutators import Mutant, mutants
from lora_course.teaching.source import Lesson, lesson_paths, read_lesson

RECORD, PAGE = Path("solutions") / "checks.json", Path("solutions") / "CHECKS.md"
WANTED = 0.95  # of all mutants must be rejected
SECONDS, MEMORY = 10, 4 << 30  # processor time and bytes of address space that one mutant may take beyond ours
RAN_INTO = "your code runs without an error"  # the property that stands for an exception of the learner's code


@dataclass
class Strength:
    """What came out for one exercise. fingerprint: of all that it depends on; accepted: change -> why that is so."""

    fingerprint: str
    named: int = 0
    raised: int = 0
    stopped: int = 0
    accepted: dict[str, str] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        return self.named + self.raised + self.stopped

    @property
    def mutants(self) -> int:
        return self.rejected + len(self.accepted)


@dataclass(frozen=True)
class Judged:
    """One mutant and what its check said."""

    exercise: str
    change: str
    outcome: str
    message: str


def measure(
    root: Path, number: str | None = None, say: Callable[[str], None] = partial(print, flush=True)
) -> tuple[dict[str, Strength], list[Judged]]:
    """Judges the mutants of every exercise whose solution or check has changed, or of all of lesson `number`, and
    writes the record after each. Returns the record of all exercises and what was judged now.

    Raises ValueError where there is no such lesson; RuntimeError where Python cannot fork.
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
            for result in judge_mutants(lesson, exercise_id, mutants(cell)):
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
    """Each mutant's verdict. The solution itself, unchanged, must be right first: RuntimeError if it is not."""
    torch.set_num_threads(1)  # a fork has no other threads to wait for
    with same_conditions(), _quiet():
        module = module_before(lesson, exercise_id)
    find_exercise(exercise_id).load_reference()
    solution = Mutant("the solution", lesson.exercises[exercise_id].source)
    if (first := _in_a_fork(module, lesson, exercise_id, solution)).outcome != "accepted":
        raise RuntimeError(f"the solution of {exercise_id} itself is rejected: {first.message}")
    for mutant in chosen:
        yield _in_a_fork(module, lesson, exercise_id, mutant)


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
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield


def read_lessons(root: Path) -> list[Lesson]:
    return [read_lesson(path, root) for path in lesson_paths(root)]


def fingerprint(lesson: Lesson, exercise_id: str) -> str:
    """Of the exercise's cell, its lesson's checks and the rules of mutation: another one means, measure again."""
    texts = [lesson.exercises[exercise_id].source]
    files = [find_exercise(exercise_id).check.__code__.co_filename, mutators.__file__]
    texts += [Path(file).read_text(encoding="utf-8") for file in files]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def load_record(root: Path) -> dict[str, Strength]:
    """What was found so far; empty if nothing was."""
    path = root / RECORD
    return {i: Strength(**kept) for i, kept in json.loads(path.read_text("utf-8")).items()} if path.exists() else {}


def write_record(root: Path, record: dict[str, Strength]) -> None:
    """The record, and the page made from it, at once."""
    text = json.dumps({i: asdict(found) for i, found in sorted(record.items())}, indent=1, ensure_ascii=False) + "\n"
    page = report(record)
    replace_files(
        {
            root / RECORD: lambda new: new.write_text(text, encoding="utf-8"),
            root / PAGE: lambda new: new.write_text(page, encoding="utf-8"),
        }
    )


def share(record: dict[str, Strength]) -> float:
    """Of all mutants, the share that is rejected."""
    return sum(found.rejected for found in record.values()) / max(1, sum(found.mutants for found in record.values()))


def problems(root: Path, record: dict[str, Strength]) -> list[str]:
    """What keeps the record from being complete: not measured since a change, too weak, unexplained."""
    found = []
    for lesson in read_lessons(root):
        stale = [i for i in lesson.exercises if i not in record or record[i].fingerprint != fingerprint(lesson, i)]
        if stale:
            found.append(f"{', '.join(stale)}: not measured since the solution or its check changed: lora-course mutate")
    for i, strength in record.items():
        unexplained = [change for change, why in strength.accepted.items() if not why]
        found += [f"{i}: {change} is accepted, and {RECORD} does not say why" for change in unexplained]
    if share(record) < WANTED:
        found.append(f"{share(record):.1%} of the mutants are rejected; {WANTED:.0%} is wanted")
    return found


def report(record: dict[str, Strength]) -> str:
    """The page for instructors: a table of exercises, then what is accepted and why."""
    total = Counter()
    rows = []
    for i, found in sorted(record.items()):
        counts = (found.mutants, found.named, found.raised, found.stopped, len(found.accepted))
        total.update(dict(enumerate(counts)))
        rows.append(f"| {i} | {' | '.join(map(str, counts))} | {found.rejected / max(1, found.mutants):.1%} |")
    rows.append(f"| all | {' | '.join(str(total[k]) for k in range(5))} | {share(record):.1%} |")
    accepted = [(i, change, why) for i, found in sorted(record.items()) for change, why in found.accepted.items()]
    told = "\n".join(f"- **{i}** {change}: {why or '(no reason given yet)'}" for i, change, why in accepted)
    return f"{OPENING}\n" + "\n".join(rows) + f"\n\n{MIDDLE}\n\n{told or 'None.'}\n"


OPENING = """# How strong the checks are

Every solution was changed in one place at a time: another operator, a constant one off, a transpose too many or too few, a
factor left out, zeros for ones, a missing `detach` or `no_grad`, a slice shifted, two arguments swapped, another variable, a
statement forgotten. Each of these mutants was handed to its exercise's check, in a process of its own. *Named* were
rejected because a property does not hold, *raised* because the mutant stops with an exception, *stopped* because it ran
into a limit of time or memory. *Accepted* ones are listed below with the reason. `lora-course mutate` makes this page.

| exercise | mutants | named | raised | stopped | accepted | rejected |
|---|---|---|---|---|---|---|"""
MIDDLE = "## What is accepted, and why"
