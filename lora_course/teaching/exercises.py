"""Exercises that check themselves: a registry, a judge, and `check`, the one function that notebooks call.

    @exercise("02.1", title=..., reference=..., verified=..., minutes=..., difficulty=...)
    def check_lora_layer(answer): ...                raises Wrong, or asserts
`judge` runs such a function on an answer and returns a Verdict: unsolved, wrong or right; it touches nothing else.
`check` also shows the verdict, records it, and hands back what the notebook should go on with: the learner's own
object if it is right, the reference if not. LORA_COURSE_STRICT=1 makes "unsolved" and "wrong" raise instead.
"""

from __future__ import annotations

import importlib
import linecache
import os
import pkgutil
import random
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lora_course.adapters.fused import plain_forward
from lora_course.teaching import progress
from lora_course.teaching.compare import Wrong, in_one_line
from lora_course.teaching.notice import Notice, show

CHECKS = "lora_course.teaching.checks"
EXERCISE_ID = re.compile(r"\d\d\.\d{1,2}")
CHECK_SEED = 0
_exercises: dict[str, Exercise] = {}


class Unsolved(Exception):
    """A stub that nobody has filled in yet; only raised under LORA_COURSE_STRICT=1."""


@dataclass(frozen=True)
class Exercise:
    """What the decorator was told."""

    id: str
    title: str
    check: Callable[[Any], None]
    reference: Any
    verified: str
    minutes: int
    difficulty: int

    def load_reference(self) -> Any:
        """A right answer; one that is named by a string is imported only now."""
        if not isinstance(self.reference, str):
            return self.reference
        module, _, name = self.reference.partition(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Verdict:
    """outcome: "unsolved", "wrong" or "right"; lines: (label, text) pairs that say why."""

    exercise: Exercise
    outcome: str
    lines: list[tuple[str, str]]

    @property
    def notice(self) -> Notice:
        title = f"Exercise {self.exercise.id} · {self.exercise.title}"
        return Notice(self.outcome, title, tuple(self.lines))


def exercise(
    exercise_id: str, *, title: str, reference: Any, verified: str, minutes: int, difficulty: int
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Registers the decorated function as the check of an exercise.

    exercise_id: lesson and number, "02.1".
    reference: a right answer itself, or "package.module:Name" for one that is dear to import.
    verified: what a right answer is then known to do, as a sentence.
    minutes: for a learner; difficulty: 1, 2 or 3.
    Raises ValueError for an id of another form or one that another function already has.
    """
    if not EXERCISE_ID.fullmatch(exercise_id):
        raise ValueError(f"exercise id {exercise_id!r}: write lesson and number, such as '02.1'")
    if difficulty not in (1, 2, 3):
        raise ValueError(f"exercise {exercise_id}: difficulty is {difficulty}; it must be 1, 2 or 3")

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        there = _exercises.get(exercise_id)
        if there and _name(there.check) != _name(function):
            raise ValueError(f"exercise {exercise_id} has two checks: {_name(there.check)} and {_name(function)}")
        _exercises[exercise_id] = Exercise(exercise_id, title, function, reference, verified, minutes, difficulty)
        return function

    return register


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def find_exercise(exercise_id: str) -> Exercise:
    """The exercise with that id; imports its lesson's checks if nothing has registered it yet.

    Raises LookupError, with the ids that exist, for any other.
    """
    if exercise_id not in _exercises:
        lesson = f"lesson_{str(exercise_id).split('.')[0]}"
        if lesson in _check_modules():
            importlib.import_module(f"{CHECKS}.{lesson}")
    if exercise_id not in _exercises:
        known = ", ".join(all_exercises()) or "none yet"
        raise LookupError(f"there is no exercise {exercise_id!r}; there are: {known}")
    return _exercises[exercise_id]


def all_exercises() -> dict[str, Exercise]:
    """Every exercise of the course, and any other that an imported module has registered, by id in order."""
    for name in _check_modules():
        importlib.import_module(f"{CHECKS}.{name}")
    return dict(sorted(_exercises.items()))


def _check_modules() -> list[str]:
    folder = importlib.import_module(CHECKS).__path__
    return [module.name for module in pkgutil.iter_modules(folder) if module.name.startswith("lesson_")]


def judge(exercise_id: str, answer: Any) -> Verdict:
    """Runs the check of an exercise on an answer. Shows nothing, records nothing, raises nothing for a bad answer.

    Every check sees the same random numbers, float32 and gradients switched on, whatever ran before it, and leaves
    those settings as they were.
    """
    asked = find_exercise(exercise_id)
    with same_conditions():
        try:
            asked.check(answer)
        except (Exception, SystemExit) as error:
            stub = _unwritten_part(error, exercise_id)
            if stub:
                return Verdict(asked, "unsolved", [("Still to write", stub)])
            return Verdict(asked, "wrong", _explain(error, asked).lines)
    return Verdict(asked, "right", [("Verified", asked.verified)])


def check(exercise_id: str, answer: Any) -> Any:
    """Judges an answer, says what came out, and returns what the notebook goes on with.

    Returns `answer` itself if it is right, else the reference.
    Raises Unsolved or Wrong under LORA_COURSE_STRICT=1; LookupError if there is no such exercise.
    """
    verdict = judge(exercise_id, answer)
    progress.record(exercise_id, verdict.outcome)
    if verdict.outcome != "right" and os.environ.get("LORA_COURSE_STRICT", "") not in ("", "0"):
        raise (Unsolved if verdict.outcome == "unsolved" else Wrong)(verdict.notice.body())
    show(verdict.notice)
    return answer if verdict.outcome == "right" else verdict.exercise.load_reference()


@contextmanager
def same_conditions() -> Iterator[None]:
    """Seeds every source of random numbers and sets torch's defaults; puts all of it back afterwards. Our own layers
    compute in plain steps meanwhile, so that a mask drawn by nn.Dropout is theirs too.
    """
    numpy = sys.modules.get("numpy")
    dtype = torch.get_default_dtype()
    states = [(random.setstate, random.getstate()), (torch.set_rng_state, torch.get_rng_state())]
    if numpy:
        states.append((numpy.random.set_state, numpy.random.get_state()))
    if torch.cuda.is_available():
        states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    if torch.backends.mps.is_available():
        states.append((torch.mps.set_rng_state, torch.mps.get_rng_state()))
    try:
        random.seed(CHECK_SEED)
        torch.manual_seed(CHECK_SEED)
        if numpy:
            numpy.random.seed(CHECK_SEED)
        torch.set_default_dtype(torch.float32)
        with torch.enable_grad(), plain_forward():
            yield
    finally:
        torch.set_default_dtype(dtype)
        for restore, state in states:
            restore(state)


def _unwritten_part(error: BaseException, exercise_id: str) -> str | None:
    """The function that is still a stub, if this error comes from one, also when something wrapped it."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, NotImplementedError) and str(current).startswith("Exercise"):
            frames = list(traceback.walk_tb(current.__traceback__))
            name = frames[-1][0].f_code.co_qualname.split("<locals>.")[-1] if frames else "your cell"
            return name if str(current).startswith(f"Exercise {exercise_id}") else f"{name} ({current})"
        queue += [current.__cause__, current.__context__, *getattr(current, "exceptions", ())]
    return None


def _explain(error: BaseException, asked: Exercise) -> Wrong:
    """The error as a Wrong: itself, a plain assertion of the check, or whatever the learner's code raised."""
    if isinstance(error, Wrong):
        return error
    message = in_one_line(str(error))
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    check_file = asked.check.__code__.co_filename
    mine = [place for place in frames if place[0] != check_file and _may_be_a_learners(place[0])]
    theirs = [place for place in frames if place[0] == check_file]
    if isinstance(error, AssertionError) and not mine:
        return Wrong(message or _source_line(*theirs[-1]))
    if mine:
        code = _source_line(*mine[-1])
        where = f"line {mine[-1][1]} of your code" + (f": {code}" if code else "")
    else:
        where = f"when the check ran: {_source_line(*theirs[-1])}"
    raised = type(error).__name__ + (f": {message}" if message else "")
    return Wrong("your code runs without an error", yours=f"{raised}\n{where}")


def _may_be_a_learners(filename: str) -> bool:
    """Whether code in that file is a learner's: not ours, not a library's, not Python's own."""
    ours = str(Path(__file__).resolve().parents[1])
    library = {"site-packages", "dist-packages"} & set(Path(filename).parts)
    return not library and not filename.startswith((ours, sysconfig.get_path("stdlib"), "<frozen"))


def _source_line(filename: str, line: int) -> str:
    return linecache.getline(filename, line).strip()
