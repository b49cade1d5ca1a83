"""A picture as an SVG string with the words that belong to it, and the few shapes that the widgets draw.

Ink and paper are the page's own colours, which a dark theme changes together; where the page has none (an image, a
printout) they are near-black on white, so text is readable either way. The other colours are Okabe and Ito's, told
apart by every kind of colour vision; shapes that need an edge get one in ink.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from torch import Tensor

from lora_course import colours

BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = colours.CYCLE
BLACK = colours.BLACK
INK = f"var(--jp-content-font-color1,{BLACK})"
PAPER = "var(--jp-layout-color0,#ffffff)"
WIDTH = 600  # of every picture, in units of which text is 13 to 16 high


@dataclass(frozen=True)
class Picture:
    """svg: the drawing.  title: what it is.  summary: what it shows, with its numbers; beside it and read aloud."""

    title: str
    summary: str
    svg: str

    def _repr_html_(self) -> str:
        """An image, which a notebook shows without being trusted, and the summary."""
        data = base64.b64encode(self.svg.encode()).decode()
        alternative = escape(f"{self.title}. {self.summary}")
        image = f'<img alt="{alternative}" src="data:image/svg+xml;base64,{data}" style="width:100%;max-width:760px">'
        return f"{image}<p>{escape(self.summary)}</p>"

    def __repr__(self) -> str:
        return f"{self.title}. {self.summary}"


def picture(title: str, summary: str, height: float, parts: Iterable[str]) -> Picture:
    """Put shapes on a sheet, 600 wide, that grows and shrinks with the window, down to letters of about 9 pixels."""
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" '
        f'viewBox="0 0 {WIDTH} {height:g}" style="width:100%;min-width:400px;max-width:760px;height:auto" '
        f'font-family="system-ui,sans-serif"><title>{escape(title)}</title><desc>{escape(summary)}</desc>'
        f'<rect width="{WIDTH}" height="{height:g}" style="fill:{PAPER}"/>{"".join(parts)}</svg>'
    )
    return Picture(title, summary, svg)


def text(
    x: float, y: float, words: object, anchor: str = "start", size: int = 13, bold: bool = False, ink: str = INK
) -> str:
    """anchor: which end of the words is at x: start, middle or end.  ink: BLACK on a light colour."""
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text {place}{weight} style="fill:{ink}">{escape(str(words))}</text>'


def rect(x: float, y: float, width: float, height: float, fill: str = "none", edge: bool = True, dash: str = "") -> str:
    """edge: whether a line of ink goes around it."""
    line = f";stroke:{INK}" + (f";stroke-dasharray:{dash}" if dash else "") if edge else ""
    size = f'width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} style="fill:{fill}{line}"/>'


def line(
    x1: float, y1: float, x2: float, y2: float, stroke: str = INK, width: float = 1, dash: str = "", faint: bool = False
) -> str:
    style = f"stroke:{stroke};stroke-width:{width:g}" + (f";stroke-dasharray:{dash}" if dash else "")
    style += ";opacity:0.3" if faint else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" style="{style}"/>'


def polyline(points: Sequence[tuple[float, float]], stroke: str, width: float = 2, dash: str = "") -> str:
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    style = f"fill:none;stroke:{stroke};stroke-width:{width:g}" + (f";stroke-dasharray:{dash}" if dash else "")
    return f'<polyline points="{where}" style="{style}"/>'


def polygon(points: Sequence[tuple[float, float]], fill: str) -> str:
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polygon points="{where}" style="fill:{fill};stroke:{INK}"/>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line with a head at its end; along one axis."""
    across = x1 != x2
    step = 6 if (x2 > x1 if across else y2 > y1) else -6
    sides = [(x2 - step, y2 - 4), (x2 - step, y2 + 4)] if across else [(x2 - 4, y2 - step), (x2 + 4, y2 - step)]
    return line(x1, y1, x2, y2) + polygon([(x2, y2), *sides], INK)


def heatmap(x: float, y: float, size: float, matrix: Tensor, largest: float) -> str:
    """A matrix as an image, blue for -largest through white to orange for +largest, `size` wide and high at most."""
    rows, columns = matrix.shape
    scale = size / max(rows, columns)
    data = base64.b64encode(_png(matrix, largest)).decode()
    width, height = columns * scale, rows * scale
    return (
        f'<image x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>' + rect(x, y, width, height)
    )


def _png(matrix: Tensor, largest: float) -> bytes:
    rows, columns = matrix.shape
    t = (matrix.detach().float() / (largest or 1)).clamp(-1, 1).unsqueeze(-1)  # (rows, columns, 1)
    white, low, high = (t.new_tensor(colour) for colour in ((255, 255, 255), (0, 114, 178), (213, 94, 0)))
    rgb = (white + t.clamp_min(0) * (high - white) - t.clamp_max(0) * (low - white)).round().byte()
    raw = b"".join(b"\0" + bytes(row) for row in rgb.view(rows, -1).tolist())

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
