"""One answer, in a process of its own: run what stands before it, run it, judge it, say what came out.

The judge's modules are loaded before any learner's code, hidden from it, and held against a seal before and after.
`examine` returns (result, message), result one of right, wrong, unsolved, error.
"""

from __future__ import annotations

import linecache
import sys
import types
from pathlib import Path
from typing import Any

from lora_course.teaching import exercises
from lora_course.teaching.compare import in_one_line
from lora_course.teaching.grading.assignment import without_magics
from lora_course.teaching.grading.integrity import ANSWER, LESSON, Seal, hide_judge, watch
from lora_course.teaching.grading.screen import screen

SHORT = 2_000  # characters of a message
OUT_OF_MEMORY = ("MemoryError", "can't allocate memory", "not enough memory", "Cannot allocate memory")


def warm(steps: list[dict[str, str]]) -> None:
    """Imports all that the lesson imports, once, so that every later answer finds it loaded."""
    for number, step in enumerate(steps):
        if not step["exercise"]:
            _run(step["source"], f"{LESSON}cell {number}>", {"__name__": "lesson_cells"}, imports_only=True)
        else:
            exercises.find_exercise(step["exercise"]).load_reference()


def examine(task: dict[str, Any]) -> tuple[str, str]:
    """task: exercise (the id), steps (as in `Step`, up to and with the exercise), answers (id -> source: the asked one
    and the earlier ones that were right), secrets (folders that an answer should not read)."""
    asked_id, answers = task["exercise"], task["answers"]
    references = {s["exercise"]: exercises.find_exercise(s["exercise"]).load_reference()
                  for s in task["steps"] if s["exercise"]}
    reference = references[asked_id]
    if problem := screen(without_magics(answers[asked_id]), reference):
        return "error", problem
    judge = exercises.judge
    seal = Seal(hide_judge(exercises.find_exercise(asked_id).check.__module__))
    notes: list[str] = []
    watch(notes, tuple(task["secrets"]))
    cells = types.ModuleType("lesson_cells")
    sys.modules[cells.__name__] = cells  # dataclasses look their module up
    for number, step in enumerate(task["steps"]):
        exercise_id = step["exercise"]
        if exercise_id == asked_id:
            break
        if exercise_id in answers:
            _run(answers[exercise_id], f"{ANSWER}{exercise_id}>", vars(cells))
        else:
            _run(step["source"], f"{LESSON}cell {number}>", vars(cells))
            if exercise_id:
                vars(cells)[step["target"]] = references[exercise_id]
    try:
        _run(answers[asked_id], f"{ANSWER}{asked_id}>", vars(cells))
        answer = eval(step["expression"], vars(cells))
    except BaseException as error:  # a learner's cell may raise anything, SystemExit too
        result = _stopped(error, asked_id, step["expression"])
    else:
        if broken := seal.broken():
            return "error", f"tampered: {broken}"
        if _is_built_on(answer, reference):
            return "error", "reads the reference: the answer is the course's own, or a subclass of it"
        result = _judged(judge(asked_id, answer))
    if broken := seal.broken():
        return "error", f"tampered: {broken}"
    if notes:
        return "error", notes[0]
    if result[0] == "wrong" and any(sign in result[1] for sign in OUT_OF_MEMORY):
        return "error", f"went over the memory limit of {task['limits']['memory']} MiB"
    return result


def _run(source: str, file: str, namespace: dict[str, Any], imports_only: bool = False) -> None:
    source = without_magics(source)
    if imports_only:
        from lora_course.teaching.answers import imports_of

        source = imports_of(source)
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec", dont_inherit=True), namespace)


def _judged(verdict: exercises.Verdict) -> tuple[str, str]:
    text = "; ".join(f"{label}: {text}" for label, text in verdict.lines)
    return verdict.outcome, " ".join(text.split())[:SHORT]


def _stopped(error: BaseException, exercise_id: str, expression: str) -> tuple[str, str]:
    """A cell that ends with an exception defines no answer, whatever the exception is."""
    if isinstance(error, NotImplementedError) and str(error).startswith("Exercise"):
        return "unsolved", f"Still to write: exercise {exercise_id}"
    if isinstance(error, NameError) and error.name == expression:
        return "wrong", f"the cell does not define {expression}"
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else _line(error)
    where = f" in line {line}" if line else ""
    said = in_one_line(str(getattr(error, "msg", None) or error))
    return "wrong", f"the cell stops{where}: {type(error).__name__}{': ' + said if said else ''}"


def _line(error: BaseException) -> int | None:
    from traceback import walk_tb

    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename.startswith(ANSWER)]
    return lines[-1] if lines else None


def _is_built_on(answer: Any, reference: Any) -> bool:
    """Whether the answer is the reference, a subclass of it, or the same from a second import of its module."""
    if isinstance(answer, type) and isinstance(reference, type):
        name = (reference.__module__, reference.__qualname__)
        return any((kind.__module__, kind.__qualname__) == name for kind in answer.__mro__)
    if isinstance(answer, types.FunctionType) and isinstance(reference, types.FunctionType):
        mine, theirs = answer.__code__, reference.__code__
        return mine == theirs and mine.co_filename == theirs.co_filename
    return answer is reference


def secret_folders(root: Path) -> list[str]:
    """Where the references can be read: the checks of the package and the solutions of the course."""
    checks = Path(exercises.__file__).resolve().parent / "checks"
    return [f"{checks}", f"{root.resolve() / 'solutions'}"]
