"""Where do the codes of a quantized weight lie, and what does one outlier do to the weights beside it?

Weights as trained ones nearly are, normal, with one of them moved out to `outlier` standard deviations. Above, their
histogram, and under it the values that the codes of a block stand for: of the outlier's block, and of another. Below,
the error in both. All of it is done by lora_course.quantization; nothing is computed here but norms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ipywidgets as w
import torch
from torch import Tensor

from lora_course.quantization import dequantize_nf4, quantize_nf4
from lora_course.quantization.uniform import dequantize_uniform, quantize_uniform
from lora_course.teaching.widgets import svg
from lora_course.teaching.widgets.panel import Panel
from lora_course.teaching.widgets.svg import BLUE, ORANGE, Picture

WEIGHTS = 4096  # a multiple of every block
BLOCKS = (16, 32, 64, 128, 256, 512, 1024)
BOOKS = {"uniform": "uniform", "nf4": "NF4 (4 bits)"}
NF4_BITS = 4
REACH = 4.5  # standard deviations that the histogram shows at least


@dataclass(frozen=True)
class Quantized:
    """What became of the weights.

    error, error_beside: root mean square of what rounding moved, as a share of the weights' own, of all ordinary
        weights, and of those in the outlier's block.
    zeroed_beside: the share of those that became 0.
    bits: of memory a weight, absmax included.
    codes, codes_beside: the values that a block can hold, of the second block and of the outlier's.
    weights: all, in standard deviations; the outlier is the first.
    """

    error: float
    error_beside: float
    zeroed_beside: float
    bits: float
    codes: Tensor
    codes_beside: Tensor
    weights: Tensor


def quantized(bits: int, block: int, book: str, outlier: float) -> Quantized:
    """bits: 2 to 8, which only "uniform" heeds.  outlier: in standard deviations; 0 for none."""
    weights = torch.randn(WEIGHTS, generator=torch.Generator().manual_seed(0))
    if outlier:
        weights[0] = outlier
    there_and_back, size = _format(book, bits)
    back = there_and_back(weights, block)
    own, moved = weights[1:], back[1:] - weights[1:]
    beside = slice(0, block - 1)  # of these, in the outlier's block
    return Quantized(
        error=float(moved.norm() / own.norm()),
        error_beside=float(moved[beside].norm() / own[beside].norm()),
        zeroed_beside=float((back[1:block] == 0).float().mean()),
        bits=8 * size(weights, block) / WEIGHTS,
        codes=code_values(there_and_back, weights[block : 2 * block].abs().max()),
        codes_beside=code_values(there_and_back, weights[:block].abs().max()),
        weights=weights,
    )


def _format(book: str, bits: int) -> tuple[Callable[[Tensor, int], Tensor], Callable[[Tensor, int], int]]:
    """(weights, block) -> the weights that the codes stand for; (weights, block) -> bytes."""
    if book == "nf4":
        return lambda x, block: dequantize_nf4(quantize_nf4(x, block)), lambda x, block: quantize_nf4(x, block).bytes
    return (
        lambda x, block: dequantize_uniform(quantize_uniform(x, bits, block)),
        lambda x, block: quantize_uniform(x, bits, block).bytes,
    )


def code_values(there_and_back: Callable[[Tensor, int], Tensor], absmax: Tensor) -> Tensor:
    """All values that a block with this absmax can hold, ascending: what a dense row of numbers becomes."""
    row = torch.linspace(-1, 1, 4096) * absmax
    return there_and_back(row, len(row)).unique()


def draw(bits: int, block: int, book: str, outlier: float) -> Picture:
    q = quantized(bits, block, book, outlier)
    name = "NF4" if book == "nf4" else f"uniform, {bits} bits"
    where = "outlier's block" if outlier else "first block"
    summary = (
        f"{name}, blocks of {block}: {q.bits:.2f} bits a weight, {len(q.codes)} values a block. "
        f"Error {100 * q.error:.1f} % of the weights' size; {100 * q.error_beside:.1f} % in the {where}, "
        f"where {100 * q.zeroed_beside:.0f} % of the weights became 0."
    )
    reach = max(REACH, outlier * 1.05)
    left, right, top, floor = 20, 580, 34, 190

    def place(value: float) -> float:
        return left + (value + reach) / (2 * reach) * (right - left)

    parts = [svg.text(left, 20, "Weights, in standard deviations", bold=True)]
    bins = 90
    counts = torch.histc(q.weights, bins, -reach, reach)
    width = (right - left) / bins
    for i, count in enumerate(counts.tolist()):
        if count:
            height = max(1.5, count / float(counts.max()) * (floor - top))
            parts.append(svg.rect(left + i * width, floor - height, width * 0.9, height, BLUE, edge=False))
    parts.append(svg.line(left, floor, right, floor))
    for tick in range(-20, 21, 5) if reach > 8 else range(-8, 9, 2):
        if abs(tick) <= reach:
            x = place(tick)
            parts += [svg.line(x, floor, x, floor + 4), svg.text(x, floor + 17, tick, "middle")]
    if outlier:
        parts += [svg.arrow(place(outlier), floor - 40, place(outlier), floor - 6)]
        parts += [svg.text(min(place(outlier), right), floor - 46, "outlier", "end" if outlier > 3 else "middle")]
    rows = [
        (f"Values in {'a block without it' if outlier else 'the second block'}", q.codes, BLUE),
        (f"Values in the {where}", q.codes_beside, ORANGE),
    ]
    for i, (words, codes, colour) in enumerate(rows):
        y = 240 + 48 * i
        parts.append(svg.text(left, y - 6, f"{words}: {len(codes)}"))
        parts += [svg.line(place(v), y, place(v), y + 18, colour, 1.6) for v in codes.tolist()]
        parts.append(svg.line(left, y + 18, right, y + 18, faint=True))
    parts.append(svg.text(left, 346, "Error, in percent of the weights' size", bold=True))
    bars = [("all weights", q.error, BLUE), (where, q.error_beside, ORANGE)]
    for i, (words, share, colour) in enumerate(bars):
        y = 356 + 26 * i
        length = 330 * min(share, 1)
        parts += [svg.text(left, y + 14, words), svg.rect(150, y, length, 18, colour)]
        parts.append(svg.text(158 + length, y + 14, f"{100 * share:.1f} %"))
    parts.append(svg.text(left, 430, f"{q.bits:.2f} bits a weight, absmax included", bold=True))
    return svg.picture(f"Quantization: {name}, blocks of {block}, outlier {outlier:g}", summary, 442, parts)


def static() -> Picture:
    """NF4 in blocks of 64 with an outlier of 10 standard deviations."""
    return draw(bits=4, block=64, book="nf4", outlier=10.0)


def explore() -> Panel:
    """The widget. With NF4 the bits are 4, and their slider is off."""
    bits = w.IntSlider(4, 2, 8, description="Bits")
    book = w.Dropdown(options=[(words, key) for key, words in BOOKS.items()], description="Code book")
    panel = Panel(
        draw,
        bits=bits,
        block=w.SelectionSlider(options=BLOCKS, value=64, description="Weights a block"),
        book=book,
        outlier=w.FloatSlider(0, min=0, max=20, step=1, readout_format=".0f", description="Outlier (std)"),
    )

    def only_uniform_has_bits(change: dict) -> None:
        bits.disabled = change["new"] == "nf4"

    book.observe(only_uniform_has_bits, "value")
    return panel
