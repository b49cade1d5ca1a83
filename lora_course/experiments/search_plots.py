"""Pictures of a search: which choices mattered, where the good ones lie, and how the best got better.

importance_plot   a bar for each choice, with a mark at what luck would show
contour_plot      the metric over two choices, every trial a dot
progress_plot     each trial's result in turn, and the best so far
Each returns a matplotlib Figure that belongs to the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_course.colours import BLUE, ORANGE
from lora_course.experiments.search_results import TrialResult
from lora_course.training.bookkeeping import LOWER_IS_BETTER

LABELS = {"learning_rate": "learning rate", "scale": "scale (alpha / rank)", "targets": "adapted layers"}
UNITS = {"loss": "nats", "accuracy": "fraction right", "f1": "0 to 1"}


def importance_plot(importances: Mapping[str, tuple[float, float]], trials: int) -> Figure:
    """importances: from `search_results.importances`. trials: how many they come from."""
    names = sorted(importances, key=lambda name: importances[name][0])
    shares, luck = zip(*(importances[name] for name in names), strict=True)
    figure = Figure(figsize=(7, 0.6 + 0.5 * len(names) + 0.6), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(names))
    axes.barh(places, shares, color=BLUE, height=0.6, label="in this search")
    axes.scatter(luck, places, marker="|", s=420, linewidths=3, color=ORANGE, zorder=3,
                 label="luck: 95 % of shuffles are below")  # fmt: skip
    axes.set_yticks(places, [LABELS.get(name, name) for name in names])
    axes.set(xlabel="share of importance (all bars add up to 1)", xlim=(0, None))
    axes.set_title(f"Which choices mattered, {trials} trials")
    axes.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.16), frameon=False, markerscale=0.6)
    return figure


def contour_plot(results: Sequence[TrialResult], x: str, y: str, metric: str) -> Figure:
    """Complete trials as large dots, pruned ones as small white triangles, failed ones as crosses; colour only where
    there are trials near.

    A pruned trial colours with the value at which it stood. Choices that are words or few numbers stand side by side.
    Raises ValueError without three complete trials.
    """
    complete = [r for r in results if r.state == "complete"]
    if len(complete) < 3:
        raise ValueError(f"a contour needs at least 3 complete trials, there are {len(complete)}")
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.add_subplot()
    shown = [r for r in results if x in r.choices and y in r.choices]
    places = {name: _places(name, [r.choices[name] for r in shown]) for name in (x, y)}

    def at(trials: Sequence[TrialResult]) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.array([places[name](r.choices[name]) for r in trials]) for name in (x, y))

    colours = "cividis_r" if metric in LOWER_IS_BETTER else "cividis"
    values = np.array([r.value for r in complete])
    low, high = np.quantile(values, (0.0, 0.9) if metric in LOWER_IS_BETTER else (0.1, 1.0))
    high = max(high, low + 1e-9)  # one very bad trial would take all the colours
    grid_x, grid_y = np.meshgrid(np.linspace(-0.05, 1.05, 80), np.linspace(-0.05, 1.05, 80))
    valued = [r for r in shown if r.state in ("complete", "pruned") and r.value is not None]
    surface = _smooth(*at(valued), np.array([r.value for r in valued]), grid_x, grid_y)
    axes.contourf(grid_x, grid_y, surface, levels=np.linspace(low, high, 12), cmap=colours, alpha=0.75, extend="both")
    dots = axes.scatter(*at(complete), c=values, cmap=colours, vmin=low, vmax=high, edgecolors="black", s=80, zorder=3,
                        label="complete")  # fmt: skip
    for state, style in (
        ("pruned", {"marker": "v", "facecolors": "white", "edgecolors": "black", "s": 34}),
        ("failed", {"marker": "x", "color": "black", "s": 60}),
    ):
        if some := [r for r in shown if r.state == state]:
            axes.scatter(*at(some), zorder=4, label=state, **style)
    axes.legend(loc="upper center", ncols=3, bbox_to_anchor=(0.5, -0.14), frameon=False)
    figure.colorbar(dots, ax=axes, label=f"validation {metric} ({UNITS[metric]})")
    for name, set_ticks in ((x, axes.set_xticks), (y, axes.set_yticks)):
        set_ticks(*_ticks(name, [r.choices[name] for r in shown], places[name]))
    axes.set(xlabel=LABELS.get(x, x), ylabel=LABELS.get(y, y), title=f"Validation {metric} over two choices")
    return figure


def progress_plot(results: Sequence[TrialResult], metric: str) -> Figure:
    """Raises ValueError without a complete trial."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes: Axes = figure.add_subplot()
    complete = [r for r in results if r.state == "complete"]
    if not complete:
        raise ValueError("no trial is complete: there is no progress to show")
    better = np.minimum if metric in LOWER_IS_BETTER else np.maximum
    numbers = [r.number for r in complete]
    axes.scatter(numbers, [r.value for r in complete], color=BLUE, label="complete")
    if pruned := [r for r in results if r.state == "pruned" and r.value is not None]:
        axes.scatter([r.number for r in pruned], [r.value for r in pruned], facecolors="none", edgecolors=BLUE,
                     label="pruned, where it stood")  # fmt: skip
    edge = axes.get_ylim()[1 if metric in LOWER_IS_BETTER else 0]
    if failed := [r.number for r in results if r.state == "failed"]:
        axes.scatter(failed, [edge] * len(failed), marker="x", color="black", label="failed", clip_on=False)
    best = better.accumulate([r.value for r in complete])
    axes.step([*numbers, results[-1].number], [*best, best[-1]], where="post", color=ORANGE, linestyle="--",
              label="best so far")  # fmt: skip
    axes.set(xlabel="trial", ylabel=f"validation {metric} ({UNITS[metric]})", title="The search, trial by trial")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def _places(name: str, values: Sequence[Any]):
    """value -> its place from 0 to 1 on the axis."""
    if name == "learning_rate":
        low, high = np.log(min(values)), np.log(max(values))
        return lambda value: (np.log(value) - low) / max(high - low, 1e-12)
    there = _sorted(values)
    return lambda value: there.index(value) / max(1, len(there) - 1)


def _ticks(name: str, values: Sequence[Any], place) -> tuple[list[float], list[str]]:
    if name != "learning_rate":
        return [place(value) for value in _sorted(values)], [str(value) for value in _sorted(values)]
    steps = (1, 3) if max(values) < 300 * min(values) else (1,)
    nice = [step * 10.0**e for e in range(-8, 2) for step in steps]
    inside = [value for value in nice if min(values) <= value <= max(values)] or [min(values), max(values)]
    return [place(value) for value in inside], [f"{value:.0e}".replace("e-0", "e-") for value in inside]


def _sorted(values: Sequence[Any]) -> list[Any]:
    return sorted(set(values)) if not isinstance(values[0], str) else sorted(set(values), key=str)


def _smooth(x: np.ndarray, y: np.ndarray, values: np.ndarray, grid_x: np.ndarray, grid_y: np.ndarray) -> np.ndarray:
    """The mean of the trials around each point, nearer ones weighing more (Gaussian, 0.1 of the axis); NaN far off."""
    distance = (grid_x[..., None] - x) ** 2 + (grid_y[..., None] - y) ** 2  # (80, 80, trials)
    weight = np.exp(-distance / (2 * 0.1**2)) + 1e-12
    return np.where(distance.min(-1) < 0.2**2, (weight * values).sum(-1) / weight.sum(-1), np.nan)
