"""A figure with the words that belong to it, and the one style in which all are drawn.

Figures are made without pyplot, so none stays open anywhere; each belongs to whoever asked for it. Lines differ in dash
and marker as well as in colour, text is readable at the width of a notebook.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_course.atomic import write_files
from lora_course.colours import CYCLE, GREY

DPI = 100
STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "legend.fontsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "legend.framealpha": 0.9,
    "svg.hashsalt": "lora_course",
}
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Plot:
    """figure: the drawing, owned by nobody else.  title: what it is.  description: what it shows, with its numbers.

    A notebook shows it as an image with title and description as the alternative text.
    """

    figure: Figure
    title: str
    description: str

    @property
    def alternative_text(self) -> str:
        return f"{self.title}. {self.description}"

    def png(self) -> bytes:
        """The image, the same bytes for the same figure."""
        data = io.BytesIO()
        with rc_context(STYLE):
            settle(self.figure)
            self.figure.savefig(data, format="png", dpi=DPI, metadata={"Software": None})
        return data.getvalue()

    def save(self, path: str | Path) -> None:
        """Write a PNG, whole or not at all."""
        write_files({Path(path): self.png()})

    def _repr_html_(self) -> str:
        width = round(self.figure.get_figwidth() * DPI)
        data = base64.b64encode(self.png()).decode()
        style = f"width:100%;max-width:{width}px;background:white"
        return f'<img alt="{escape(self.alternative_text)}" src="data:image/png;base64,{data}" style="{style}">'

    def __repr__(self) -> str:
        return self.alternative_text


def settle(figure: Figure) -> None:
    """Find the layout, once: each drawing would move it a little further."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


styled = rc_context(STYLE)  # as a decorator: whatever the function draws is drawn in our style


def new_figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (7.0, 3.8), **options: Any):
    """A figure of `size` inches and its axes, an array where there are several."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def look(i: int) -> dict[str, Any]:
    """Colour, dash and marker of the i-th line; six of each, and then colours meet other dashes."""
    return {
        "color": CYCLE[i % 6],
        "linestyle": DASHES[(i + i // 6) % 6],
        "marker": MARKERS[(i + i // 6) % 6],
        "markersize": 5,
    }


def label_points(ax: Axes, xs: Sequence[float], ys: Sequence[float], names: Sequence[str], size: float = 9) -> None:
    """Write a name beside each point, moved down where another is in its way, with a line to its point.

    The limits of the axes must be final: places are worked out in pixels.
    """
    figure = ax.figure
    settle(figure)
    points = ax.transData.transform(np.column_stack([xs, ys]))  # pixels
    scale = figure.dpi / 72
    height, gap = 1.25 * size * scale, 7 * scale
    box = ax.get_window_extent()
    dot = 5 * scale
    taken = [(x - dot / 2, y, dot, dot) for x, y in points]  # left, middle, width, height
    for i in np.argsort(-points[:, 1]):
        x, y = points[i]
        width = 0.56 * size * scale * len(names[i])
        left = x + gap if x + gap + width < box.x1 else x - gap - width
        shifts = [-k * height / 4 for k in range(160)]  # only down: names keep the order of their points
        free = [d for d in shifts if box.y0 < y + d and not _hits(taken, left, y + d, width, height)]
        shift = free[0] if free else 0.0
        taken.append((left, y + shift, width, height))
        ax.annotate(
            names[i],
            (xs[i], ys[i]),
            xytext=((left - x) / scale, shift / scale),
            textcoords="offset points",
            va="center",
            fontsize=size,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5} if abs(shift) > height / 2 else None,
        )


def _hits(taken: Sequence[tuple[float, float, float, float]], x: float, y: float, width: float, height: float) -> bool:
    return any(x < a + w and a < x + width and abs(y - b) < (height + h) / 2 for a, b, w, h in taken)
