"""How much of a matrix does a rank hold?

Given a matrix, best a change of weights that a full fine-tune made: its best approximation of the chosen rank (Eckart
and Young 1936), its singular values with the share of their squares that the rank captures, what is left over, and the
number of parameters that every method of lora_course.adapters trains at this rank, by its own count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import ipywidgets as w
import torch
from torch import Tensor

from lora_course.adapters import METHODS
from lora_course.teaching.widgets import svg
from lora_course.teaching.widgets.panel import Panel
from lora_course.teaching.widgets.svg import BLUE, GREEN, ORANGE, Picture

PIXELS = 96  # rows and columns that a picture of a matrix shows at most
WHOLE = "the whole matrix"


@dataclass(frozen=True)
class Decomposed:
    """A matrix (out, in) and its singular value decomposition U diag(S) Vh, with S (min(out, in),) falling."""

    matrix: Tensor
    U: Tensor
    S: Tensor
    Vh: Tensor

    def at(self, rank: int) -> Tensor:
        """The matrix of this rank that is nearest, (out, in)."""
        return (self.U[:, :rank] * self.S[:rank]) @ self.Vh[:rank]

    def captured(self, rank: int) -> float:
        """The share of the sum of squares, 0 to 1, that this rank holds. 1 for a matrix of zeros."""
        total = self.S.square().sum()
        return float(self.S[:rank].square().sum() / total) if total else 1.0

    def error(self, rank: int) -> float:
        """||W - W_rank|| / ||W||, of the matrices themselves."""
        norm = self.matrix.norm()
        return float((self.matrix - self.at(rank)).norm() / norm) if norm else 0.0


def decompose(matrix: Tensor) -> Decomposed:
    """matrix: (out, in). Raises ValueError for any other number of dimensions, and for NaN or infinity."""
    if matrix.dim() != 2 or not matrix.numel():
        raise ValueError(f"need a matrix (out, in), got a tensor of shape {tuple(matrix.shape)}")
    if not torch.isfinite(matrix).all():
        raise ValueError("the matrix holds NaN or infinity")
    matrix = matrix.detach().to("cpu", torch.float32)
    return Decomposed(matrix, *torch.linalg.svd(matrix, full_matrices=False))


def parameters_at(out_features: int, in_features: int, rank: int) -> list[tuple[str, int]]:
    """(methods that train as many, how many), from the fewest up, and the whole matrix."""
    counts: dict[int, list[str]] = {in_features * out_features: [WHOLE]}
    for name, layer in METHODS.items():
        counts.setdefault(layer.count_trainable(in_features, out_features, rank), []).append(name)
    return [(", ".join(names), count) for count, names in sorted(counts.items())]


def draw(name: str, of: Decomposed, rank: int) -> Picture:
    """name: what the matrix is.  rank: 1 to min(out, in)."""
    rows, columns = of.matrix.shape
    captured, error = of.captured(rank), of.error(rank)
    lora = METHODS["lora"].count_trainable(columns, rows, rank)
    summary = (
        f"{name}, {rows} x {columns}, at rank {rank} of {len(of.S)}: {100 * captured:.1f} % of the energy, "
        f"error {100 * error:.1f} %. LoRA trains {lora:,} numbers for it, {100 * lora / (rows * columns):.1f} % of "
        f"{rows * columns:,}."
    )
    parts = [svg.text(14, 22, f"{name}, {rows} x {columns}, rank {rank}", bold=True, size=15)]
    parts += _matrices(of, rank, 36)
    parts += _spectrum(of, rank, captured, 250)
    parts += _bars(parameters_at(rows, columns, rank), 440)
    height = 474 + 22 * len(parameters_at(rows, columns, rank))
    return svg.picture(f"{name} at rank {rank}", summary, height, parts)


def _matrices(of: Decomposed, rank: int, y: float) -> list[str]:
    """The matrix, its approximation, and what is left, all in the colours of one scale."""
    down, across = (math.ceil(size / PIXELS) for size in of.matrix.shape)
    shown, near = of.matrix[::down, ::across], of.at(rank)[::down, ::across]
    largest = float(shown.abs().max())
    parts = []
    for i, (words, matrix) in enumerate([("matrix", shown), (f"rank {rank}", near), ("left over", shown - near)]):
        parts += [svg.text(20 + 195 * i, y + 12, words), svg.heatmap(20 + 195 * i, y + 20, 165, matrix, largest)]
    colours = f"blue -{largest:.2g}, white 0, orange {largest:.2g}"
    every = "" if down == across == 1 else f"; every {_th(down)} row, every {_th(across)} column"
    return [*parts, svg.text(20, y + 202, colours + every, size=12)]


def _th(n: int) -> str:
    return {1: "", 2: "second", 3: "third"}.get(n, f"{n}th").strip() or "single"


def _spectrum(of: Decomposed, rank: int, captured: float, y: float) -> list[str]:
    """Singular values as bars, those within the rank in blue; the share that they capture as a line."""
    left, right, floor, top = 20, 560, y + 165, y + 46
    width, highest = (right - left) / len(of.S), float(of.S[0]) or 1.0

    def stairs(first: int, last: int) -> list[tuple[float, float]]:
        points = [(left + first * width, floor)]
        for i, value in enumerate(of.S[first:last].tolist(), start=first):
            height = value / highest * (floor - top)
            points += [(left + i * width, floor - height), (left + (i + 1) * width, floor - height)]
        return [*points, (left + last * width, floor)]

    total = float(of.S.square().sum()) or 1.0
    shares = (of.S.square().cumsum(0) / total).tolist()
    line = [(left + (i + 1) * width, floor - share * (floor - top)) for i, share in enumerate(shares)]
    x = left + rank * width
    beside = f"rank {rank}: {100 * captured:.1f} % captured"
    return [
        svg.text(14, y + 14, "Singular values (steps), energy captured (line, up to 100 %)", bold=True),
        svg.polygon(stairs(0, rank), BLUE),
        svg.polygon(stairs(rank, len(of.S)), svg.PAPER),
        svg.polyline([(left, floor), *line], ORANGE),
        svg.line(x, top - 10, x, floor, dash="4 3"),
        svg.text(x + (6 if x < 380 else -6), top - 10, beside, "start" if x < 380 else "end"),
        svg.text(left, floor + 16, "1"),
        svg.text(right, floor + 16, len(of.S), "end"),
    ]


def _bars(counts: list[tuple[str, int]], y: float) -> list[str]:
    """Bars on a logarithmic scale, since methods differ by orders of magnitude."""
    parts = [svg.text(14, y + 14, "Trained parameters at this rank (each gridline: ten times more)", bold=True)]
    left, decades = 300, math.ceil(math.log10(counts[-1][1]) + 1e-9)
    scale = 200 / decades
    for decade in range(decades + 1):
        x = left + decade * scale
        parts.append(svg.line(x, y + 24, x, y + 26 + 22 * len(counts), faint=True))
    for i, (names, count) in enumerate(counts):
        at, length = y + 28 + 22 * i, math.log10(count) * scale
        words = names if len(names) <= 46 else names[:44].rpartition(",")[0] + " ..."
        parts += [svg.text(left - 8, at + 13, words, "end", 12)]
        parts += [svg.rect(left, at, length, 16, ORANGE if names == WHOLE else GREEN)]
        parts += [svg.text(left + length + 6, at + 13, f"{count:,}", size=12)]
    return parts


def example() -> dict[str, Tensor]:
    """Two matrices of one size: a sum of four patterns with a little noise, and noise alone."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(48, 64, generator=generator)
    down, across = torch.linspace(0, 1, 48).unsqueeze(1), torch.linspace(0, 1, 64).unsqueeze(0)
    waves = [torch.sin(6 * k * down + k) * torch.cos(5 * k * across) / k for k in range(1, 5)]
    return {"four patterns and noise": sum(waves) + 0.05 * noise, "noise alone": noise}


def static(matrices: Mapping[str, Tensor] | None = None, rank: int = 4) -> Picture:
    """The first of the matrices, by default of `example`, at this rank."""
    name, matrix = next(iter((matrices or example()).items()))
    return draw(name, decompose(matrix), rank)


def explore(matrices: Mapping[str, Tensor] | None = None) -> Panel:
    """The widget. matrices: what it is -> matrix (out, in), such as the changes that a fine-tune made to some layers.

    Raises ValueError if there is none, or one is not a matrix of finite numbers.
    """
    matrices = example() if matrices is None else matrices
    if not matrices:
        raise ValueError("nothing to explore: pass {name: matrix}")
    decomposed = {name: decompose(matrix) for name, matrix in matrices.items()}
    rank = w.IntSlider(1, 1, len(next(iter(decomposed.values())).S), description="Rank")
    which = w.Dropdown(options=list(decomposed), description="Matrix")

    def up_to_full_rank(change: dict) -> None:
        rank.max = len(decomposed[change["new"]].S)

    which.observe(up_to_full_rank, "value")  # before the panel draws
    return Panel(lambda which, rank: draw(which, decomposed[which], rank), which=which, rank=rank)
