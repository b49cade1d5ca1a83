"""What came out of the measurement: kept in solutions/checks.json, told in solutions/CHECKS.md.

The record says for each exercise how many mutants its check rejected, and lists those that it accepts; the reasons
beside them are written by a person, in checks.json, and survive the next measurement: "no difference: why" for a
mutant that does the same as the solution, "allowed: why" for one that does not.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lora_course.atomic import write_files
from lora_course.teaching.exercises import find_exercise
from lora_course.teaching.mutation import mutants, rules
from lora_course.teaching.source import Lesson, lesson_paths, read_lesson

RECORD, PAGE = Path("solutions") / "checks.json", Path("solutions") / "CHECKS.md"
ALIKE = "no difference"  # how the reason of a mutant begins that does the same as the solution
WANTED = 0.95  # of all mutants must be rejected


OPENING = """# How strong the checks are

Every solution was changed in one place at a time: another operator, a constant one off, a transpose too many or too
few, a factor left out, zeros for ones, a missing `detach` or `no_grad`, a slice shifted, two arguments swapped, another
variable, a statement forgotten. Each of these mutants was handed to its exercise's check, in a process of its own.
*Named* were rejected because a property does not hold, *raised* because the mutant stops with an exception, *stopped*
because it ran into a limit of time or memory. *Accepted* ones are listed below with the reason. The reasons stand in
`checks.json`; `lora-course mutate` makes this page.

| exercise | mutants | named | raised | stopped | accepted | rejected |
|---|---|---|---|---|---|---|"""
MIDDLE = "## What is accepted, and why"


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


def read_lessons(root: Path) -> list[Lesson]:
    return [read_lesson(path, root) for path in lesson_paths(root)]


def fingerprint(lesson: Lesson, exercise_id: str) -> str:
    """Of the exercise's cell, its lesson's checks and how mutants are made: another one means, measure again."""
    texts = [lesson.exercises[exercise_id].source]
    files = [find_exercise(exercise_id).check.__code__.co_filename, mutants.__file__, rules.__file__]
    texts += [Path(file).read_text(encoding="utf-8") for file in files]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def load_record(root: Path) -> dict[str, Strength]:
    """What was found so far; empty if nothing was."""
    path = root / RECORD
    return {i: Strength(**kept) for i, kept in json.loads(path.read_text("utf-8")).items()} if path.exists() else {}


def write_record(root: Path, record: dict[str, Strength]) -> None:
    """The record, and the page made from it, at once."""
    text = json.dumps({i: asdict(found) for i, found in sorted(record.items())}, indent=1, ensure_ascii=False) + "\n"
    write_files({root / RECORD: text, root / PAGE: report(record)})


def share(record: dict[str, Strength]) -> float:
    """Of all mutants, the share that is rejected."""
    return sum(found.rejected for found in record.values()) / max(1, sum(found.mutants for found in record.values()))


def problems(root: Path, record: dict[str, Strength]) -> list[str]:
    """What keeps the record from being complete: not measured since a change, too weak, unexplained."""
    found = []
    for lesson in read_lessons(root):
        stale = [i for i in lesson.exercises if i not in record or record[i].fingerprint != fingerprint(lesson, i)]
        if stale:
            found.append(f"{', '.join(stale)}: solution or check changed since it was measured: lora-course mutate")
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
    alike = sum(why.startswith(ALIKE) for _, _, why in accepted)
    rejected = total[0] - len(accepted)
    counted = (
        f"Of {len(accepted)} accepted mutants {alike} make no difference that could be seen. Without them, "
        f"{rejected / max(1, total[0] - alike):.1%} are rejected."
    )
    return f"{OPENING}\n" + "\n".join(rows) + f"\n\n{MIDDLE}\n\n{counted}\n\n{told or 'None.'}\n"
