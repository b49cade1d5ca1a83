"""What the answers of a lesson must do: the gates that run code.

The solution cell, the reference and every file in tests/right_answers/ are accepted; the student's stub is told as
unsolved; junk and every file in tests/wrong_answers/ are rejected, each file with the message meant for its mistake.
An answer file starts with a docstring (exercise id; for a wrong one, a second line with part of the message) and
defines `answer`.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import types
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lora_course.teaching.exercises import Verdict, find_exercise, judge, same_conditions
from lora_course.teaching.source import Cell, Lesson

JUNK = (None, 0, "", [], object(), lambda *args, **kwargs: None, lambda *args, **kwargs: "junk")
SHORTEST_FRAGMENT = 5  # characters; "no" would be in any message


def answer_from_cells(lesson: Lesson, exercise_id: str, student: bool) -> Any:
    """What the notebook hands to `check`, solved or as the student gets it, without running the whole notebook."""
    cell = lesson.exercises[exercise_id]
    source = cell.for_student() if student else cell.source
    return answer_in(module_before(lesson, exercise_id), lesson, exercise_id, source)


def module_before(lesson: Lesson, exercise_id: str) -> types.ModuleType:
    """What an exercise finds: the imports of the code cells above it, "setup" cells and earlier exercises, solved."""
    module = types.ModuleType("lesson_cells")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    for cell in lesson.cells:
        if cell.exercise == exercise_id:
            break
        if cell.kind == "code":
            source = without_magics(cell.source)
            _run(source if cell.exercise or "setup" in cell.tags else imports_of(source), module, lesson, cell)
    return module


def answer_in(module: types.ModuleType, lesson: Lesson, exercise_id: str, source: str) -> Any:
    """What `check` is handed when the exercise's cell is `source`; runs it in `module`."""
    _run(without_magics(source), module, lesson, lesson.exercises[exercise_id])
    return eval(checked_expression(lesson, exercise_id), vars(module))


def _run(source: str, module: types.ModuleType, lesson: Lesson, cell: Cell) -> None:
    exec(compile(source, f"<{lesson.slug}, line {cell.line}>", "exec", dont_inherit=True), vars(module))


def without_magics(source: str) -> str:
    """The cell without IPython's lines, which plain Python does not know."""
    return re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE)


def imports_of(source: str) -> str:
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(ast.unparse(node) for node in nodes)


def checked_expression(lesson: Lesson, exercise_id: str) -> str:
    """X of `check("02.1", X)` in the check cell."""
    for node in ast.walk(ast.parse(lesson.checks[exercise_id].source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "check" and len(node.args) == 2:
            first, second = node.args
            if isinstance(first, ast.Constant) and first.value == exercise_id:
                return ast.unparse(second)
    raise ValueError(f'{lesson.path.name}: the check cell of {exercise_id} does not call check("{exercise_id}", ...)')


def solution_problems(lesson: Lesson, exercise_id: str) -> list[str]:
    """The solution cell is a right answer."""
    with same_conditions():
        answer = answer_from_cells(lesson, exercise_id, student=False)
    return _unless("right", judge(exercise_id, answer), f"{lesson.path.name}, solution of {exercise_id}")


def stub_problems(lesson: Lesson, exercise_id: str) -> list[str]:
    """The student's cell runs, so that the notebook goes on, and its answer is told as unsolved."""
    name = f"{lesson.path.name}, stub of {exercise_id}"
    try:
        answer = answer_from_cells(lesson, exercise_id, student=True)
    except NotImplementedError as error:
        return [f"{name}: raises as soon as the cell runs, put the region inside a function ({error})"]
    return _unless("unsolved", judge(exercise_id, answer), name)


def reference_problems(exercise_id: str) -> list[str]:
    """The reference, with which an unsolved notebook goes on, is a right answer."""
    reference = find_exercise(exercise_id).load_reference()
    return _unless("right", judge(exercise_id, reference), f"reference of {exercise_id}")


def junk_problems(exercise_id: str) -> list[str]:
    """What is no answer at all is wrong."""
    verdicts = {f"{exercise_id}, answered with {junk!r},": judge(exercise_id, junk) for junk in JUNK}
    return [problem for name, verdict in verdicts.items() for problem in _unless("wrong", verdict, name)]


def answer_files(folder: Path) -> list[Path]:
    """The answers in a folder, in order. Raises ValueError for a Python file that is named otherwise."""
    paths = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    for path in paths:
        if not re.match(r"ex_\d\d_\d{1,2}_\w+\.py", path.name):
            raise ValueError(f"{path.name}: an answer's file is called ex_02_1_what_it_does.py")
    return paths


def exercise_of(path: Path) -> str:
    """The exercise that an answer's file name speaks of."""
    return ".".join(path.stem.split("_")[1:3])


def wrong_answer_problems(path: Path) -> list[str]:
    """Rejected, with the message that its docstring announces."""
    exercise_id, fragment, answer = load_answer(path)
    if len(fragment) < SHORTEST_FRAGMENT:
        return [f"{path.name}: the second line of the docstring is part of the message expected, not {fragment!r}"]
    verdict = judge(exercise_id, answer)
    said = " ".join(text for _, text in verdict.lines)
    problems = _unless("wrong", verdict, path.name)
    return problems or ([] if fragment in said else [f"{path.name}: expected {fragment!r} in: {said}"])


def right_answer_problems(path: Path) -> list[str]:
    """Accepted."""
    exercise_id, _, answer = load_answer(path)
    return _unless("right", judge(exercise_id, answer), path.name)


def coverage_problems(exercise_ids: Iterable[str], right: Path, wrong: Path) -> list[str]:
    """Each exercise has two or more wrong answers and, beside its solution, a right one; no file is for another."""
    ids, problems = set(exercise_ids), []
    for folder, least in ((right, 1), (wrong, 2)):
        count = Counter(exercise_of(path) for path in answer_files(folder))
        problems += [f"{i}: {count[i]} of at least {least} in {folder.name}/" for i in sorted(ids) if count[i] < least]
        problems += [f"{folder.name}/ has an answer to {i}, which is no exercise" for i in sorted(set(count) - ids)]
    return problems


def copied_answer_problems(lesson: Lesson, right: Path) -> list[str]:
    """Each right answer is another program than the solution, not the same one with other names."""
    solutions = {exercise_id: skeleton(cell.source) for exercise_id, cell in lesson.exercises.items()}
    files = [path for path in answer_files(right) if exercise_of(path) in solutions]
    copies = [path for path in files if skeleton(path.read_text("utf-8")) == solutions[exercise_of(path)]]
    return [f"{path.name}: the solution in {lesson.path.name} with other names is no second answer" for path in copies]


def skeleton(source: str) -> list[str]:
    """The functions of a program without their names, comments, docstrings and annotations."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            numbers: dict[str, str] = {}
            body = function.body[1:] if ast.get_docstring(function) else function.body
            for node in ast.walk(ast.Module([*function.args.args, *body], [])):
                for name in ("id", "arg"):
                    if isinstance(getattr(node, name, None), str) and not isinstance(node, ast.keyword):
                        setattr(node, name, numbers.setdefault(getattr(node, name), f"n{len(numbers)}"))
            found.append("\n".join(ast.dump(statement) for statement in body))
    return found


def load_answer(path: Path) -> tuple[str, str, Any]:
    """The exercise's id, the fragment of the message (empty for a right answer), and the answer."""
    spec = importlib.util.spec_from_file_location(f"answer_{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with same_conditions():  # no exec_module: its bytecode cache misses an edit of the same second and length
        exec(compile(path.read_bytes(), path, "exec", dont_inherit=True), vars(module))
    exercise_id, _, rest = (module.__doc__ or "").strip().partition("\n")
    if exercise_id.strip() != exercise_of(path):
        raise ValueError(f"{path.name}: its docstring says exercise {exercise_id!r}, its name {exercise_of(path)!r}")
    return exercise_id.strip(), rest.strip().partition("\n")[0].strip(), module.answer


def _unless(outcome: str, verdict: Verdict, name: str) -> list[str]:
    return [] if verdict.outcome == outcome else [f"{name} should be {outcome}:\n{verdict.notice.text()}"]
