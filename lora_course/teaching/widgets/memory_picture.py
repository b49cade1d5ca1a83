"""The memory planner's picture: bars of a planned step against the memory of cards and of this machine.

The first bar adds up what a step keeps at some time or other. The three below are what is there at once at the worst
moment of each phase: gradients grow as what was saved is given up, which makes them shorter than the sum, and they hold
what an operation makes in passing, which can make them longer. A card must hold the longest of the three, and about a
gigabyte more for its own library.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import psutil
import torch

from lora_course.memory import MemoryPlan, StepMemory
from lora_course.tables import in_units
from lora_course.teaching.widgets import svg
from lora_course.teaching.widgets.svg import AMBER, BLUE, GREEN, ORANGE, PURPLE, SKY, Picture

GIB = 2**30
THIS = "this machine"
CARDS = ("8 GB", "16 GB", "24 GB", "48 GB", "80 GB", THIS)
LEFT, RIGHT = 130, 585


@dataclass(frozen=True)
class Asked:
    """The settings of a plan. all_linear: whether all linear layers are adapted, or query and value alone."""

    model: str
    method: str
    rank: int
    all_linear: bool
    dtype: str
    optimizer: str
    batch: int
    sequence: int
    checkpointing: bool
    quantization: str | None

    def words(self) -> str:
        layers = "all linear layers" if self.all_linear else "query and value"
        adapted = "full fine-tuning" if self.method == "full" else f"{self.method} rank {self.rank} on {layers}"
        more = [self.dtype, self.optimizer, f"{self.batch} x {self.sequence} tokens"]
        more += ["checkpointing"] if self.checkpointing else []
        more += [self.quantization] if self.quantization else []
        return f"{self.model}, {adapted}, {', '.join(more)}"


@dataclass(frozen=True)
class Largest:
    """n: the largest batch or rank (`what`) that fits, None if even 1 does not.  most: the largest that was tried."""

    what: str
    n: int | None
    most: int

    def words(self, card: str) -> str:
        if self.n is None:
            return f"Not even {self.what} 1 fits in {_of(card)}."
        more = ", the largest tried" if self.n == self.most else ""
        return f"Largest {self.what} that fits in {_of(card)}: {self.n:,}{more}."


def size_of(card: str) -> int:
    """Bytes of a card, its GB taken as GiB, or of this machine: its GPU's memory, else its own."""
    if card != THIS:
        return int(card.split()[0]) * GIB
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return psutil.virtual_memory().total


def kinds(step: StepMemory) -> dict[str, int]:
    """What a step needs at some time or other -> bytes."""
    return {
        "weights": step.parameters + step.buffers,
        "gradients": step.gradients,
        "optimizer state": step.optimizer_state,
        "activations saved": step.saved,
    }


def draw(
    asked: Asked,
    outcome: MemoryPlan | str,
    card: str,
    measured: StepMemory | None = None,
    largest: tuple[Largest, ...] = (),
) -> Picture:
    """outcome: the plan, or the sentence that says why there is none.  card: of CARDS, the one that is to hold it."""
    if isinstance(outcome, str):
        return _message(f"Memory of {asked.model}", f"This cannot be planned: {outcome}", asked)
    peak = outcome.peak
    sizes = {name: size_of(name) for name in CARDS}
    fits = [name for name, size in sizes.items() if peak <= size]
    parts_in_words = ", ".join(f"{name} {in_units(size)}" for name, size in kinds(outcome).items())
    phase = max(outcome.phase_peaks, key=outcome.phase_peaks.get)
    sentences = [f"{asked.words()}: {in_units(peak)} at most, in the {_phase(phase)} ({parts_in_words})."]
    sentences.append(f"{'Fits' if card in fits else 'Does not fit'} in {_of(card)} ({in_units(sizes[card])}).")
    sentences += [found.words(card) for found in largest]
    if measured is not None:
        off = 100 * abs(peak - measured.peak) / measured.peak
        sentences.append(f"Measured on this CPU: {in_units(measured.peak)}; the plan is {off:.2g} % off.")
    summary = " ".join(sentences)

    needed = max(sum(kinds(outcome).values()), peak, measured.peak if measured else 0)
    smallest = min(sizes.values())
    end = max(1.12 * needed, 1.05 * smallest if needed > smallest / 8 else 0)
    scale = (RIGHT - LEFT) / end
    rows = [("all, added up", kinds(outcome), None)]
    rows += [(_phase(name), {name: size}, measured) for name, size in outcome.phase_peaks.items()]
    top, step = 96, 40
    floor = top + step * len(rows)
    parts = [svg.text(14, 20, f"{asked.model}: {in_units(peak)} at most", bold=True, size=15)]
    for i, (name, pieces, real) in enumerate(rows):
        y, x = top + step * i, float(LEFT)
        parts.append(svg.text(LEFT - 8, y + 17, name, "end"))
        for colour, size in zip((BLUE, AMBER, GREEN, PURPLE) if i == 0 else (SKY,), pieces.values(), strict=True):
            parts.append(svg.rect(x, y, size * scale, 18 if real else 26, colour))
            x += size * scale
        if real:
            parts.append(svg.rect(LEFT, y + 20, real.phase_peaks[next(iter(pieces))] * scale, 8, ORANGE))
    parts += _limits(sizes, card, scale, end, top - 6, floor)
    parts += [svg.line(LEFT, floor, RIGHT, floor), svg.line(LEFT, top - 6, LEFT, floor)]
    parts += [svg.text(LEFT, floor + 16, "0"), svg.text(RIGHT, floor + 16, in_units(int(end)), "end")]
    parts += _table(outcome, measured, floor + 46)
    return svg.picture(f"Memory of a training step: {asked.words()}", summary, floor + 46 + 22 * 6, parts)


def waiting(asked: Asked) -> Picture:
    return _message(f"Memory of {asked.model}", "Not planned yet: press Plan. Large models take some seconds.", asked)


def _message(title: str, message: str, asked: Asked) -> Picture:
    lines = [svg.text(14, 24, asked.words()[:84], bold=True)]
    lines += [svg.text(14, 54 + 20 * i, part) for i, part in enumerate(textwrap.wrap(message, 80))]
    return svg.picture(title, message, 64 + 20 * (len(lines) - 1), lines)


def _limits(sizes: dict[str, int], card: str, scale: float, end: float, top: float, floor: float) -> list[str]:
    """A line for each card that the picture is wide enough for, and a word on the others."""
    parts, taken, beyond = [], [-1e9, -1e9, -1e9], []
    for name, size in sorted(sizes.items(), key=lambda item: item[1]):
        if size > end:
            beyond.append(name)
            continue
        x, chosen = LEFT + size * scale, name == card
        parts.append(svg.line(x, top, x, floor, svg.INK, 2.5 if chosen else 1, "" if chosen else "5 3"))
        half = 4 * len(name)
        for level, right in enumerate(taken):
            if x - half > right:
                taken[level] = x + half
                parts.append(svg.text(min(x, svg.WIDTH - half), top - 6 - 15 * level, name, "middle", 12, bold=chosen))
                break
    if beyond:
        parts.append(svg.text(14, 40, f"Further right than this picture: {', '.join(beyond)}", size=12))
    return parts


def _table(outcome: MemoryPlan, measured: StepMemory | None, y: float) -> list[str]:
    rows = [*kinds(outcome).items(), ("most at once", outcome.peak)]
    real = [*kinds(measured).values(), measured.peak] if measured else []
    parts = [svg.text(300, y, "planned", "end", bold=True)]
    parts += [svg.text(430, y, "measured", "end", bold=True)] if real else []
    for i, (name, size) in enumerate(rows):
        at = y + 22 * (i + 1)
        parts.append(svg.rect(LEFT - 100, at - 11, 12, 12, (BLUE, AMBER, GREEN, PURPLE, SKY)[i]))
        parts += [svg.text(LEFT - 80, at, name), svg.text(300, at, in_units(size), "end")]
        if real:
            parts.append(svg.text(430, at, in_units(real[i]), "end"))
            if i == len(rows) - 1:
                parts.append(svg.rect(440, at - 11, 12, 12, ORANGE))
    return parts


def _phase(name: str) -> str:
    return name if name == "optimizer step" else f"{name} pass"


def _of(card: str) -> str:
    return card if card == THIS else f"a card of {card}"
