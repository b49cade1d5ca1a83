"""Histories sorted into lines of a figure, x a setting and y a quality, and how such lines are drawn.

Each value is a dot, the line goes through the means over the seeds, bars are one standard deviation.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from lora_course.experiments.figure import look
from lora_course.training.history import History

Groups = dict[str, dict[float, list[float]]]  # a line's label -> x -> one value for each seed


def grouped(
    histories: Sequence[History],
    label: Callable[[History], str],
    x: Callable[[History], float],
    y: Callable[[History], float],
) -> Groups:
    """NaN, the mark of a run that diverged, is left out. Raises ValueError if there are no histories."""
    if not histories:
        raise ValueError("there are no histories to draw")
    groups: Groups = {}
    for history in histories:
        if not math.isnan(y(history)):
            groups.setdefault(label(history), {}).setdefault(x(history), []).append(y(history))
    return {name: dict(sorted(line.items())) for name, line in groups.items()}


def by_rank(histories: Sequence[History], y: Callable[[History], float]) -> Groups:
    """Those with an adapter, by the rank in their settings; a line for each configuration but for its rank."""
    with_rank = [h for h in histories if h.run.config["adapter"]]
    return grouped(
        with_rank, lambda h: re.sub(r" r=\d+", "", h.run.name), lambda h: h.run.config["adapter"]["rank"], y
    )


def draw_lines(ax: Axes, groups: Groups) -> None:
    for i, (name, line) in enumerate(groups.items()):
        means = [statistics.fmean(values) for values in line.values()]
        spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in line.values()]
        ax.errorbar([*line], means, yerr=spreads, capsize=3, label=name, **look(i))
        dots = [(x, value) for x, values in line.items() for value in values if len(set(values)) > 1]
        if dots:
            ax.plot(*zip(*dots, strict=True), ".", color=look(i)["color"], alpha=0.5, markersize=5)


def rank_axis(ax: Axes, groups: Groups) -> None:
    ranks = sorted({rank for line in groups.values() for rank in line})
    ax.set_xscale("log", base=2)
    ax.set_xticks(ranks, [f"{rank:g}" for rank in ranks])
    ax.set_xlabel("rank")


def best_of(name: str, line: dict[float, list[float]], quality: str, where: str) -> str:
    """E.g. `lora 0.771 at learning rate 0.002`, where `where` is "at learning rate {:g}"."""
    means = {x: statistics.fmean(values) for x, values in line.items()}
    best = (min if quality.endswith("loss") else max)(means, key=means.get)
    return f"{name} {means[best]:.3f} {where.format(best)}"
