"""What does autograd keep between forward and backward, method by method?

A layer is run as it runs in training, on an x that wants a gradient, and every tensor that the graph then holds is
found there: nothing is known in advance, neither which nor how large. Weights are in memory anyway and do not count.
What is kept is put in its place in the graph of the layer by where it lies (x itself), by the module that saved it
(dropout), or else by its shape.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

import ipywidgets as w
import torch
from torch import Tensor, nn

from lora_course.adapters import METHODS
from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.fused import plain_forward
from lora_course.memory.live import storage_key
from lora_course.memory.saved import Kept, SavedTensors
from lora_course.tables import in_units
from lora_course.teaching.widgets import svg
from lora_course.teaching.widgets.panel import Panel
from lora_course.teaching.widgets.svg import AMBER, BLUE, SKY, Picture

NAMES = {"full": "full fine-tuning", "lora": "LoRA", "lora_fa": "LoRA-FA", "vera": "VeRA", "dora": "DoRA"}
IN, OUT, DROPOUT = 384, 512, 0.1
X, MASK, DROPPED, AX, OUTPUTS, VECTORS = "x", "dropout mask", "dropped x", "A x", "N x out", "vectors"


@dataclass(frozen=True)
class KeptGroup:
    """Tensors of one role and shape that the graph holds: how many, and bytes of all."""

    role: str
    shape: tuple[int, ...]
    dtype: str
    count: int
    bytes: int

    def words(self) -> str:
        times = f"{self.count} x " if self.count > 1 else ""
        return f"{times}({', '.join(map(str, self.shape))}) {self.dtype}, {in_units(self.bytes)}"


@lru_cache(maxsize=512)
def kept(method: str, rank: int, tokens: int, readers: int, dropout: bool, by_hand: bool) -> tuple[KeptGroup, ...]:
    """What is held after the forward pass of `readers` layers that read one x, (tokens, 384), and give (tokens, 512).

    by_hand: whether the methods take their own hand-written steps, or the plain forward.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(tokens, IN, requires_grad=True)
        layers = nn.ModuleList(_layer(method, rank, dropout) for _ in range(readers)).train()
        saved = SavedTensors([*layers.parameters(), *layers.buffers()])
        with nullcontext() if by_hand else plain_forward(), saved.record(layers):
            loss = sum(layer(x).sum() for layer in layers)  # noqa: F841  alive, it holds the graph
        groups: dict[tuple, list[Tensor]] = {}
        for found in saved.tensors():
            role = _role(found, x, rank)
            groups.setdefault((role, tuple(found.tensor.shape), str(found.tensor.dtype)[6:]), []).append(found.tensor)
    return tuple(
        KeptGroup(*key, len(tensors), sum(t.untyped_storage().nbytes() for t in tensors))
        for key, tensors in groups.items()
    )


def _layer(method: str, rank: int, dropout: bool) -> nn.Module:
    layer = nn.Linear(IN, OUT)
    if method == "full":
        return layer
    return METHODS[method](layer, AdapterConfig(method, rank, 16, dropout=DROPOUT if dropout else 0.0))


def _role(found: Kept, x: Tensor, rank: int) -> str:
    if storage_key(found.tensor) == storage_key(x):
        return X
    if found.module.endswith("dropout"):
        return MASK
    n, shape = len(x), tuple(found.tensor.shape)
    return {(n, IN): DROPPED, (n, rank): AX, (rank, n): AX, (n, OUT): OUTPUTS}.get(shape, VECTORS)


def draw(method: str, rank: int, tokens: int, readers: int, dropout: bool, by_hand: bool) -> Picture:
    """The graph of one layer, with what all `readers` layers keep, and the same total for every method."""
    how = {"rank": rank, "tokens": tokens, "readers": readers, "dropout": dropout, "by_hand": by_hand}
    groups = kept(method, **how)
    totals = {other: sum(group.bytes for group in kept(other, **how)) for other in NAMES}
    settings = f"{tokens} tokens, {readers} layer{'s' if readers > 1 else ''} on one x"
    settings += "" if method == "full" else f", rank {rank}{f', dropout {DROPOUT}' if dropout else ''}"
    listed = "; ".join(f"{group.role} {group.words()}" for group in groups) or "nothing"
    summary = f"{NAMES[method]}, {settings}: {in_units(totals[method])} kept for the backward pass. {listed}."
    parts = [svg.text(14, 22, f"{NAMES[method]}: {in_units(totals[method])} kept for backward", bold=True, size=15)]
    parts += _graph(method, rank, tokens, groups, dropout and method != "full")
    parts.append(svg.text(14, 336, f"Kept by all methods ({settings.partition(', rank')[0]})", bold=True))
    scale = 320 / max(totals.values())
    for i, (other, size) in enumerate(totals.items()):
        y = 348 + 24 * i
        parts += [svg.text(120, y + 14, NAMES[other], "end", bold=other == method)]
        parts += [svg.rect(130, y, size * scale, 18, AMBER if other == method else SKY)]
        parts += [svg.text(138 + size * scale, y + 14, in_units(size), bold=other == method)]
    return svg.picture(f"Inside a step of {NAMES[method]}", summary, 348 + 24 * len(totals) + 8, parts)


def _graph(method: str, rank: int, tokens: int, groups: tuple[KeptGroup, ...], dropping: bool) -> list[str]:
    """x on the left, the result on the right; above the frozen path through W, below the adapter's branch."""

    def tensor(x: float, y: float, name: str, shape: str, *roles: str) -> str:
        held = [group for group in groups if group.role in roles]
        size = sum(group.bytes for group in held)
        count = sum(group.count for group in held)
        below = f"kept{f' {count} x' if count > 1 else ''}: {in_units(size)}" if held else "not kept"
        box = svg.rect(x, y, 128, 54, AMBER if held else svg.PAPER, dash="" if held else "4 3")
        ink = svg.BLACK if held else svg.INK
        lines = enumerate((name, shape, below))
        return box + "".join(svg.text(x + 64, y + 17 + 16 * i, line, "middle", 12, ink=ink) for i, line in lines)

    def weight(x: float, y: float, name: str, state: str) -> str:
        box = svg.rect(x, y, 66, 54, svg.PAPER) + svg.rect(x, y, 6, 54, BLUE)
        return box + svg.text(x + 36, y + 23, name, "middle") + svg.text(x + 36, y + 40, state, "middle", size=11)

    n = f"{tokens} x"
    up, down = 44, 224
    parts = [tensor(10, up, "x", f"{n} {IN}", X), svg.arrow(138, up + 27, 190, up + 27)]
    parts += [weight(190, up, "W", "trained" if method == "full" else "frozen")]
    if method == "full":
        return [*parts, svg.arrow(256, up + 27, 462, up + 27), tensor(462, up, "h = W x + b", f"{n} {OUT}", OUTPUTS)]
    middle = 134
    trains = {"lora": ("trained", "trained"), "lora_fa": ("frozen", "trained"), "vera": ("shared", "shared")}
    state_a, state_b = trains.get(method, ("trained", "trained"))
    result = {"vera": "Wx + b * B(d * Ax)", "dora": "Wx + sBAx, times c"}.get(method, "h = Wx + sBAx")
    parts += [svg.line(256, up + 27, 526, up + 27)]
    parts += [svg.arrow(526, up + 27, 526, middle)]
    parts += [tensor(462, middle, result, f"{n} {OUT}", OUTPUTS)]
    if dropping:
        parts += [svg.arrow(74, up + 54, 74, middle), tensor(10, middle, "dropout mask", f"{n} {IN}", MASK)]
        parts += [svg.arrow(74, middle + 54, 74, down), tensor(10, down, "dropped x", f"{n} {IN}", DROPPED)]
        parts += [svg.arrow(138, down + 27, 160, down + 27)]
    else:
        parts += [svg.line(74, up + 54, 74, down + 27), svg.arrow(74, down + 27, 160, down + 27)]
    parts += [weight(160, down, "A", state_a), svg.arrow(226, down + 27, 250, down + 27)]
    parts += [tensor(250, down, "A x", f"{n} {rank}", AX), svg.arrow(378, down + 27, 402, down + 27)]
    parts += [weight(402, down, "B", state_b), svg.line(468, down + 27, 526, down + 27)]
    parts += [svg.arrow(526, down + 27, 526, middle + 54)]
    if vectors := [group for group in groups if group.role == VECTORS]:
        words = f"and {sum(g.count for g in vectors)} vectors: {in_units(sum(g.bytes for g in vectors))}"
        parts.append(svg.text(455, middle + 30, words, "end", size=12))
    return parts


def static() -> Picture:
    """LoRA of rank 8 on 256 tokens, three layers that read one x."""
    return draw("lora", rank=8, tokens=256, readers=3, dropout=False, by_hand=True)


def explore() -> Panel:
    """The widget."""
    return Panel(
        draw,
        method=w.Dropdown(options=[(name, key) for key, name in NAMES.items()], value="lora", description="Method"),
        rank=w.SelectionSlider(options=[1, 4, 8, 16, 64, 256], value=8, description="Rank"),
        tokens=w.SelectionSlider(options=[32, 128, 250, 1000], value=250, description="Tokens"),
        readers=w.Dropdown(
            options=[("one", 1), ("three: query, key, value", 3)], value=3, description="Layers that read x"
        ),
        dropout=w.Checkbox(False, description=f"Dropout {DROPOUT}", indent=False),
        by_hand=w.Checkbox(True, description="Hand-written steps", indent=False),
    )
