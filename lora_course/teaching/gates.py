"""What every lesson must have, as functions from a lesson to a list of problems: empty is good.

They read the source (headings, parts, hints, links, papers) and the saved solution (executed, clean). The tests run
`GATES` over every lesson, and over a small lesson of their own that they spoil in one way for each gate.
What the answers of a lesson must do is in `answers`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from lora_course.teaching.authoring import LIVE, read_notebook
from lora_course.teaching.exercises import all_exercises
from lora_course.teaching.references import BY_ARXIV, NOT_OURS
from lora_course.teaching.source import BEGIN, END, Cell, Lesson, stub_line

HEADING = re.compile(r"^(#{1,6}) +(\S.*)$", re.MULTILINE)
LINK = re.compile(r'(!?)\[([^\]]*)\]\(([^()\s]+)(?: "[^"]*")?\)')
ARXIV = re.compile(r"arxiv(?:\.org/(?:abs|pdf)/|:\s*)(\d{4}\.\d{4,5})", re.IGNORECASE)
LOCAL_PATH = re.compile(r"(?<![\w.~])/(?:home|root|tmp|Users)\b|\bC:\\")
OPENING = {
    "**The question.** and the one question it answers": r"\*\*The question\.\*\* \S",
    "**What you will be able to do** and a list": r"\*\*What you will be able to do\*\*\s+- \S",
    "**Time and memory.** with minutes": r"\*\*Time and memory\.\*\*(?:(?!\n\n).)*\d minutes?\b",
    "**Time and memory.** with MiB or GiB": r"\*\*Time and memory\.\*\*(?:(?!\n\n).)*\d [MG]i?B\b",
}
SECTIONS = ("Bug lab", "Self-test", "Reading")
HINTS = ("Nudge", "Bigger nudge", "Outline")


def headings(lesson: Lesson) -> list[str]:
    """One h1, first of all, with the lesson's number; no level skipped."""
    found = [(cell, len(marks), text) for cell, prose in _prose(lesson) for marks, text in HEADING.findall(prose)]
    top = [text for _, level, text in found if level == 1]
    problems = []
    if len(top) != 1 or found[0][1] != 1 or not top[0].startswith(f"{lesson.number} · "):
        problems.append(f"{lesson.path.name}:1: starts with its only h1, '# {lesson.number} · Title', not {top}")
    for (_, before, _), (cell, level, text) in zip(found, found[1:], strict=False):
        if level > before + 1:
            problems.append(_at(lesson, cell, f"heading '{text}' skips a level: h{before} to h{level}"))
    return problems


def parts(lesson: Lesson) -> list[str]:
    """The parts of a lesson: its opening, 2 to 5 exercises, a bug lab, three self-test questions, what to read."""
    prose = "\n".join(text for _, text in _prose(lesson))
    opening = prose.split("\n## ")[0]
    problems = [what for what, pattern in OPENING.items() if not re.search(pattern, opening, re.DOTALL)]
    problems = [f"{lesson.path.name}:1: before the first '##' there must be {what}" for what in problems]
    if not 2 <= len(lesson.exercises) <= 5:
        problems.append(f"{lesson.path.name}: {len(lesson.exercises)} exercises; a lesson has 2 to 5")
    sections = _sections(lesson)
    problems += [f"{lesson.path.name}: no section '## {title}'" for title in SECTIONS if title not in sections]
    if "Bug lab" in sections and not sections["Bug lab"].code_cells:
        problems.append(f"{lesson.path.name}: the bug lab has no code to run")
    questions = re.findall(r"<summary>(\d)\. ", sections["Self-test"].text) if "Self-test" in sections else list("123")
    if questions != ["1", "2", "3"]:
        problems.append(f"{lesson.path.name}: 'Self-test' has three <summary>1. question</summary>, not {questions}")
    if "Reading" in sections and not LINK.search(sections["Reading"].text):
        problems.append(f"{lesson.path.name}: 'Reading' links to nothing")
    return problems


def exercise_headers(lesson: Lesson) -> list[str]:
    """Above each exercise: its heading, stars and minutes as registered, and hints in three collapsed steps."""
    registered, problems = all_exercises(), []
    for exercise_id, cell in lesson.exercises.items():
        if exercise_id not in registered:
            continue  # `registration` says so
        asked, before = registered[exercise_id], _text_above(lesson, cell)
        wanted = (
            f"\n## Exercise {exercise_id} · {asked.title}\n",
            f"\n{'★' * asked.difficulty} · {asked.minutes} minutes\n",
        )
        missing = [line.strip() for line in wanted if line not in before]
        problems += [_at(lesson, cell, f"the text above lacks '{line}'") for line in missing]
        hints = re.findall(r"<details>\s*<summary>([^<]+)</summary>\s*[^<\s]", before)
        if tuple(hints[:3]) != HINTS or before.count("<details>") != before.count("</details>"):
            problems.append(_at(lesson, cell, "hints are three collapsed <details><summary>Nudge</summary> text "
                                              f"</details>, then Bigger nudge and Outline; found {hints}"))
    return problems


def registration(lesson: Lesson) -> list[str]:
    """Exercises in the source and checks that are registered for this lesson are the same."""
    there = set(lesson.exercises)
    registered = {exercise_id for exercise_id in all_exercises() if exercise_id[:2] == lesson.number}
    problems = [f"{lesson.path.name}: exercise {i} has no check" for i in sorted(there - registered)]
    return problems + [f"{lesson.path.name}: check {i} has no exercise" for i in sorted(registered - there)]


def links(lesson: Lesson) -> list[str]:
    """Links and images are well formed; images have alt text; relative links lead somewhere, in both folders."""
    problems = []
    for cell, prose in _prose(lesson):
        found = LINK.findall(prose)
        if len(found) != prose.count("]("):
            problems.append(_at(lesson, cell, "a link is not of the form [text](target)"))
        for image, text, target in found:
            if not text.strip():
                problems.append(_at(lesson, cell, f"{'image' if image else 'link'} {target} has no text"))
            problems += [_at(lesson, cell, problem) for problem in _target(lesson, target)]
        for tag in re.findall(r"<img\b[^>]*>", prose):
            if not re.search(r'\balt="[^"]*\w', tag):
                problems.append(_at(lesson, cell, f"{tag} has no alt text"))
    return problems


def papers(lesson: Lesson) -> list[str]:
    """Every arXiv id stands in the table of references."""
    problems = []
    for cell in lesson.cells:
        for arxiv in sorted(set(ARXIV.findall(cell.source)) - set(BY_ARXIV)):
            problems.append(_at(lesson, cell, f"arXiv {arxiv} is not in lora_course/teaching/references.py"))
        problems += [_at(lesson, cell, f"{arxiv} is {why}") for arxiv, why in NOT_OURS.items() if arxiv in cell.source]
    return problems


def student_copy(lesson: Lesson) -> list[str]:
    """The saved student's copy: no outputs, solving it only adds lines, and no solution stands anywhere in it."""
    notebook = read_notebook(lesson.student_path)
    if notebook is None:
        return [f"{lesson.student_path.name}: no student's copy has been built"]
    problems = []
    if any(cell.cell_type == "code" and (cell.outputs or cell.execution_count) for cell in notebook.cells):
        problems.append(f"{lesson.student_path.name}: has outputs")
    everything = "\n".join(line.strip() for cell in notebook.cells for line in cell.source.splitlines())
    by_id = {cell.id: cell.source for cell in notebook.cells}
    for exercise_id, cell in lesson.exercises.items():
        stub = by_id.get(f"ex-{exercise_id.replace('.', '-')}", "").splitlines()
        given = [line for line in stub if line.strip() != stub_line(exercise_id)]
        solved = iter(cell.source.splitlines())
        if not stub or not all(line in solved for line in given):
            problems.append(_at(lesson, cell, f"solving {exercise_id} would change lines of the student's copy"))
        for region in re.findall(rf"{BEGIN}\n(.*?)\n *{END}", cell.source, re.DOTALL):
            lines = "\n".join(line.strip() for line in region.splitlines())
            if len(lines) > 40 and lines in everything:
                problems.append(_at(lesson, cell, f"the solution of {exercise_id} can be read in the student's copy"))
    return problems


def local_paths(lesson: Lesson) -> list[str]:
    """No folder of the author's machine in the source."""
    found = [(cell, path) for cell in lesson.cells for path in _paths(lesson, cell.source)]
    return [_at(lesson, cell, f"local path {path!r}") for cell, path in found]


def saved_outputs(lesson: Lesson) -> list[str]:
    """The saved solution: every code cell executed; no error, stderr, warning, live widget or local path in it."""
    notebook = read_notebook(lesson.solution_path)
    if notebook is None:
        return [f"{lesson.solution_path.name}: no solution has been built and executed"]
    problems = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code):
        found = [] if cell.execution_count else ["not executed"]
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"raises {output.ename}")
            if output.get("name") == "stderr":
                found.append("writes to stderr")
            data = output.get("data", {})
            found += ["holds a live widget"] if LIVE & data.keys() else []
            shown = output.get("text", "") + "\n".join(text for text in data.values() if isinstance(text, str))
            found += [f"shows {name}" for name in re.findall(r"\b[A-Z]\w*Warning:", shown)]
            found += [f"shows local path {path!r}" for path in _paths(lesson, shown)]
        problems += [f"{lesson.solution_path.name}, code cell {number}: {problem}" for problem in found]
    return problems


GATES = (headings, parts, exercise_headers, registration, links, papers, student_copy, local_paths, saved_outputs)


def _prose(lesson: Lesson) -> Iterator[tuple[Cell, str]]:
    """Markdown cells without fenced code, code spans and formulas, where brackets and # mean something else."""
    for cell in lesson.cells:
        if cell.kind == "markdown":
            yield cell, re.sub(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", "", cell.source, flags=re.DOTALL)


@dataclass
class Section:
    text: str = ""
    code_cells: int = 0


def _sections(lesson: Lesson) -> dict[str, Section]:
    """What stands under each h2, by its title up to a colon."""
    sections: dict[str, Section] = {}
    current = Section()
    for cell in lesson.cells:
        if cell.kind == "code":
            current.code_cells += 1
            continue
        before, *titled = re.split(r"^## +", cell.source, flags=re.MULTILINE)
        current.text += before + "\n"
        for part in titled:
            title, _, text = part.partition("\n")
            current = sections.setdefault(re.split(r" *[:·]", title)[0].strip(), Section())
            current.text += text + "\n"
    return sections


def _text_above(lesson: Lesson, cell: Cell) -> str:
    """The markdown between an exercise and the exercise or check before it."""
    above: list[str] = []
    for other in lesson.cells[: lesson.cells.index(cell)]:
        if other.exercise or other.check:
            above = []
        elif other.kind == "markdown":
            above.append(other.source)
    return "\n" + "\n".join(above) + "\n"


def _target(lesson: Lesson, target: str) -> list[str]:
    if target.startswith("#"):
        return []
    if ":" in target:
        address = urlsplit(target)
        return [] if address.scheme == "https" and "." in address.netloc else [f"{target} is not an https address"]
    path = target.split("#")[0]
    missing = [folder for folder in ("solutions", "notebooks") if not (lesson.root / folder / path).exists()]
    return [f"{target} does not exist, seen from {folder}/" for folder in missing]


def _paths(lesson: Lesson, text: str) -> list[str]:
    found = sorted(set(LOCAL_PATH.findall(text)))
    return found + [str(lesson.root)] * (str(lesson.root) in text and not found)


def _at(lesson: Lesson, cell: Cell, problem: str) -> str:
    return f"{lesson.path.name}:{cell.line}: {problem}"
