"""Loss, accuracy and the length of the gradient while training runs, of two runs side by side; Stop ends them.

The runs are the learner's: a race is {name: train}, and train(watch) is any training with `callbacks=[watch]`. Nothing
starts by itself. The picture is drawn at most ten times a second, so that drawing costs next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from time import monotonic

import ipywidgets as w

from lora_course.teaching.widgets import svg
from lora_course.teaching.widgets.panel import Panel
from lora_course.teaching.widgets.race import Race, Run, Watch
from lora_course.teaching.widgets.svg import BLUE, GREEN, ORANGE, PURPLE, Picture
from lora_course.training.history import History

STYLES = ((BLUE, ""), (ORANGE, "7 3"), (GREEN, "2 3"), (PURPLE, "10 3 2 3"))  # colour and dashes, run by run
LEFT, RIGHT, HEIGHT = 60, 585, 96
PAUSE = 0.1  # seconds between two pictures

Entrants = Mapping[str, Callable[[Watch], object]]


def draw(runs: Sequence[Run], window: int = 1) -> Picture:
    """One to four runs. window: how many steps each point of the curves of loss and gradient is the mean of."""
    end = max([1, *(len(run.losses) for run in runs)])
    parts = [svg.text(14, 20, " against ".join(run.name for run in runs), bold=True, size=15)]
    for i, (run, (colour, dash)) in enumerate(zip(runs, STYLES, strict=False)):
        y = 42 + 20 * i
        parts += [svg.polyline([(14, y - 4), (54, y - 4)], colour, 3, dash), svg.text(LEFT, y, _now(run))]
    y = 42 + 20 * len(runs)
    every = "" if window == 1 else f", mean of {window} steps"
    charts = (
        (f"Training loss (nats{every})", [_means(run.losses, window) for run in runs], 0.0),
        ("Accuracy (share right)", [run.accuracies for run in runs], None),
        (f"Length of the gradient{every}", [_means(run.norms, window) for run in runs], 0.0),
    )
    for title, curves, floor in charts:
        parts += _chart(title, curves, end, floor, y)
        y += HEIGHT + 44
    parts.append(svg.text(RIGHT, y - 6, "optimizer step", "end", size=12))
    summary = "; ".join(f"{run.name}: {_in_words(run)}" for run in runs) + "."
    return svg.picture(f"Training: {' against '.join(run.name for run in runs)}", summary, y, parts)


def _means(values: Sequence[float], window: int) -> list[tuple[int, float]]:
    """(step, mean of the last `window` values up to it)."""
    return [(i, sum(values[i - window : i]) / window) for i in range(window, len(values) + 1)]


def _now(run: Run) -> str:
    return f"{run.name}, {run.state}" if run.state.startswith("failed") else f"{run.name}: {_in_words(run)}"


def _in_words(run: Run) -> str:
    if not run.losses:
        return run.state
    words = f"{run.state}, step {len(run.losses)}, loss {run.losses[-1]:.3f}, gradient {run.norms[-1]:.2f}"
    return words + (f", accuracy {run.accuracies[-1][1]:.3f}" if run.accuracies else "")


def _chart(title: str, curves: Sequence[list[tuple[int, float]]], end: int, floor: float | None, y: float) -> list[str]:
    """Curves over steps 0 to `end`, with two lines to read heights by; `floor` is the lowest value, None to choose."""
    values = [value for curve in curves for _, value in curve]
    low, high = _range(values, floor)
    bottom = y + 10 + HEIGHT

    def place(step: int, value: float) -> tuple[float, float]:
        return LEFT + step / end * (RIGHT - LEFT), bottom - (value - low) / (high - low) * HEIGHT

    parts = [svg.text(LEFT, y + 4, title, bold=True)]
    for value in (low, (low + high) / 2, high):
        _, at = place(0, value)
        parts.append(svg.line(LEFT, at, RIGHT, at, faint=value != low))
        parts.append(svg.text(LEFT - 6, at + 4, f"{value:.3g}", "end", 12))
    for step in (0, end):
        parts.append(svg.text(place(step, low)[0], bottom + 16, step, "end" if step else "start", 12))
    for curve, (colour, dash) in zip(curves, STYLES, strict=False):
        if curve:
            parts.append(svg.polyline([place(*point) for point in curve], colour, 2, dash))
            x, at = place(*curve[-1])
            parts.append(svg.rect(x - 3, at - 3, 6, 6, colour))
    return parts


def _range(values: Sequence[float], floor: float | None) -> tuple[float, float]:
    """Round numbers that enclose the finite values; 0 to 1 if there are none."""
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return 0.0, 1.0
    low = min(values) if floor is None else floor
    step = 10 ** math.floor(math.log10(max(max(values) - low, 0.1))) / 2
    low = math.floor(low / step) * step
    return low, max(math.ceil(max(values) / step), math.floor(low / step) + 2) * step


def static(histories: Mapping[str, History] | None = None, window: int = 1) -> Picture:
    """Runs that are over: name -> history. By default none has begun."""
    runs = [Run.of(name, history) for name, history in histories.items()] if histories else [Run("no run")]
    return draw(runs, window)


def explore(races: Mapping[str, Entrants]) -> Panel:
    """The widget. races: what is raced -> {name: train}; train(watch) trains with watch among fit's callbacks.

    The panel's `race` is the Race that was started last, or None; race.wait() waits for its end.
    Raises ValueError if there is nothing to race, or more than four runs are to race each other.
    """
    if not races or not all(1 <= len(entrants) <= len(STYLES) for entrants in races.values()):
        raise ValueError("a race is {name: train} with one to four runs; pass {what is raced: race}")
    start, stop = w.Button(description="Start"), w.Button(description="Stop", disabled=True)
    shown: dict[str, Race] = {}  # what is raced -> its last race
    drawn = 0.0

    def picture_of(race: str, window: int) -> Picture:
        runs = shown[race].runs.values() if race in shown else [Run(name) for name in races[race]]
        return draw(list(runs), window)

    def changed() -> None:
        """In the thread of a run."""
        nonlocal drawn
        over = panel.race is not None and panel.race.over
        if over or monotonic() - drawn > PAUSE:
            drawn = monotonic()
            panel.update()
        if over:
            start.disabled, stop.disabled = False, True

    def begin(_button: w.Button) -> None:
        start.disabled, stop.disabled = True, False
        panel.race = None
        race = panel.controls["race"].value
        panel.race = shown[race] = Race(races[race], changed)
        changed()  # it may be over already

    def end(_button: w.Button) -> None:
        stop.disabled = True
        panel.say("Stopping after this step ...")
        panel.race.stop()

    panel = Panel(
        picture_of,
        (start, stop),
        race=w.Dropdown(options=list(races), description="Race"),
        window=w.Dropdown(options=[("every step", 1), ("mean of 5 steps", 5)], description="Curves"),
    )
    panel.race = None
    start.on_click(begin)
    stop.on_click(end)
    return panel
