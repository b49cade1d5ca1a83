"""Where am I in the course, and what comes next?

One row a lesson, one square an exercise, read from what teaching/progress.py has recorded. In a notebook the map looks
again after every cell, so a check that turns green turns its square green. Reset asks twice; export writes one file. A
folder that cannot be read or written is said in the map's sentence: no lesson stops for it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as w

from lora_course.teaching import progress as store
from lora_course.teaching.exercises import Exercise, all_exercises
from lora_course.teaching.widgets import svg
from lora_course.teaching.widgets.panel import Panel
from lora_course.teaching.widgets.svg import GREEN, ORANGE, Picture

LOOK = {"right": ("✓", GREEN), "wrong": ("✗", ORANGE), "unsolved": ("○", svg.PAPER), "": ("", svg.PAPER)}
WORDS = {"right": "right", "wrong": "not right yet", "unsolved": "looked at", "": "not begun"}
_shown: list[Panel] = []  # the map that was made last


@dataclass(frozen=True)
class Lesson:
    """number: "02".  name: what the notebook is called, or nothing.  exercises: in order."""

    number: str
    name: str
    exercises: tuple[Exercise, ...]


def lessons(exercises: Mapping[str, Exercise], folder: Path) -> tuple[Lesson, ...]:
    """All lessons that have exercises; named after the notebooks NN_name.ipynb in `folder`, where they are there."""
    names = {path.name[:2]: path.stem[3:].replace("_", " ") for path in folder.glob("[0-9][0-9]_*.ipynb")}
    by_number: dict[str, list[Exercise]] = {}
    for exercise_id, exercise in exercises.items():
        by_number.setdefault(exercise_id[:2], []).append(exercise)
    return tuple(
        Lesson(number, names.get(number, ""), tuple(sorted(found, key=lambda e: int(e.id[3:]))))
        for number, found in sorted(by_number.items())
    )


def next_step(course: tuple[Lesson, ...], outcomes: Mapping[str, str]) -> Exercise | None:
    """The first exercise that is not right yet after the last one that is; else the first of all; None at the end."""
    everything = [exercise for lesson in course for exercise in lesson.exercises]
    right = [i for i, exercise in enumerate(everything) if outcomes.get(exercise.id) == "right"]
    start = right[-1] + 1 if right else 0
    left = [exercise for exercise in everything[start:] + everything[:start] if outcomes.get(exercise.id) != "right"]
    return left[0] if left else None


def draw(course: tuple[Lesson, ...], outcomes: Mapping[str, str]) -> Picture:
    """outcomes: exercise id -> "right", "wrong" or "unsolved", as progress() gives it; unknown ids are left out."""
    everything = [exercise for lesson in course for exercise in lesson.exercises]
    done = sum(outcomes.get(exercise.id) == "right" for exercise in everything)
    following = next_step(course, outcomes)
    summary = f"{done} of {len(everything)} exercises are right. "
    if following is None:
        summary += "You have solved them all."
    else:
        summary += f"Next: exercise {following.id}, {following.title}, about {following.minutes} minutes."
    parts = [svg.text(14, 22, f"{done} of {len(everything)} exercises", bold=True, size=15)]
    parts += [svg.rect(200, 10, 300, 14), svg.rect(200, 10, 300 * done / max(1, len(everything)), 14, GREEN)]
    for row, lesson in enumerate(course):
        y = 40 + 32 * row
        parts.append(svg.text(14, y + 17, f"{lesson.number} {lesson.name}".strip()))
        for column, exercise in enumerate(lesson.exercises):
            parts.append(_square(250 + 44 * column, y, exercise, outcomes.get(exercise.id, ""), exercise is following))
    y = 40 + 32 * len(course) + 10
    for i, (outcome, words) in enumerate(WORDS.items()):
        mark, colour = LOOK[outcome]
        parts += [svg.rect(14 + 120 * i, y, 16, 16, colour), _mark(22 + 120 * i, y + 13, mark, colour)]
        parts.append(svg.text(36 + 120 * i, y + 13, words, size=12))
    parts.append(svg.rect(494, y, 16, 16, dash="3 2"))
    parts.append(svg.text(516, y + 13, "next", size=12))
    return svg.picture(f"Course map: {done} of {len(everything)} exercises", summary, y + 28, parts)


def _square(x: float, y: float, exercise: Exercise, outcome: str, following: bool) -> str:
    mark, colour = LOOK[outcome]
    frame = svg.rect(x - 4, y - 3, 44, 30, dash="3 2") if following else ""
    number = svg.text(x + 24, y + 17, exercise.id[2:], size=11)
    title = f"<title>{svg.escape(f'{exercise.id} {exercise.title}: {WORDS[outcome]}')}</title>"
    return f"<g>{title}{frame}{svg.rect(x, y + 2, 20, 20, colour)}{_mark(x + 10, y + 17, mark, colour)}{number}</g>"


def _mark(x: float, y: float, mark: str, colour: str) -> str:
    return svg.text(x, y, mark, "middle", ink=svg.INK if colour == svg.PAPER else svg.BLACK) if mark else ""


def static() -> Picture:
    """The course as a newcomer finds it."""
    return draw(lessons(all_exercises(), Path.cwd()), {})


def explore(folder: str | Path = ".") -> Panel:
    """The widget. folder: where the notebooks lie, to name the lessons by; an export goes there too."""
    course = lessons(all_exercises(), Path(folder))
    where = w.Text(str(Path(folder) / "progress.json"), description="Export to")
    forget = w.Checkbox(False, description="Really forget everything", indent=False)
    buttons = {name: w.Button(description=name) for name in ("Look again", "Export", "Reset")}
    below = (buttons["Look again"], where, buttons["Export"], forget, buttons["Reset"])
    panel = Panel(lambda: draw(course, store.progress()), below)

    def export(_button: w.Button) -> None:
        try:
            panel.say(f"Written to {store.export(Path(where.value).expanduser())}.")
        except OSError as error:
            panel.say(f"The export could not be written: {error}")

    def reset(_button: w.Button) -> None:
        if not forget.value:
            return panel.say("Nothing is forgotten yet: tick 'Really forget everything', then press Reset again.")
        forget.value = False
        try:
            store.reset()
        except OSError as error:
            return panel.say(f"The records could not be deleted: {error}")
        panel.update()

    buttons["Look again"].on_click(lambda _button: panel.update())
    buttons["Export"].on_click(export)
    buttons["Reset"].on_click(reset)
    _shown[:] = [panel]
    _look_after_every_cell()
    return panel


def _look_after_every_cell() -> None:
    """Have IPython, where we run in it, bring the last map up to date when a cell has run. Once."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is not None and update_shown not in shell.events.callbacks["post_run_cell"]:
        shell.events.register("post_run_cell", update_shown)


def update_shown(*_: object) -> None:
    for panel in _shown:
        panel.update()
