"""What an adapter costs in a training step, in time and in bytes kept for the backward pass: ours beside PEFT's.

    overhead    (step with adapters - step of the frozen model that computes its input gradients) / the latter
    saved       bytes that autograd keeps, each storage once, weights excluded
    floor       the same for a stand-in that keeps what the method's gradients need and nothing else
A step is forward and backward, without the optimizer. The three models take each step in turn, in one process, on the
same batch, so that whatever else the machine does hits all alike; overheads are those of the medians. Ours takes each
step twice: as it trains, and with the products that the other two have (`products.py`).
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lora_course.adapters.base import weight_view
from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.inject import find_targets, inject
from lora_course.memory.measure import measure
from lora_course.products import as_torch_multiplies, mkl_leaves_avx512_idle

ALPHA = 16
CASES = [("lora", 8), ("lora_fa", 8), ("dora", 8), ("vera", 8), ("vera", 256)]  # method and rank
DROPOUTS = (0.0, 0.1)
AIM = 0.6
ONEDNN = """ On this processor MKL, torch's library for products, leaves half the speed unused, and our steps use \
oneDNN (`products.py`): an overhead below 0 is a step shorter than the frozen model's. The last column gives \
our steps the same library as the others have."""


@dataclass(frozen=True)
class Row:
    """One model and method. Overheads are fractions; bytes are of one step."""

    model: str
    method: str
    rank: int
    dropout: float
    overhead_ours: float
    overhead_peft: float
    overhead_ours_torch_products: float
    saved_bytes_ours: int
    saved_bytes_peft: int
    saved_bytes_floor: int
    frozen_seconds: float
    rounds: int

    @property
    def ratio(self) -> float:
        """Our overhead as a share of PEFT's; below 0 where our step is shorter than the frozen model's."""
        return self.overhead_ours / self.overhead_peft

    @property
    def ratio_torch_products(self) -> float:
        return self.overhead_ours_torch_products / self.overhead_peft


@dataclass(frozen=True)
class Subject:
    """A model to measure on. make() -> the model, frozen nothing; loss(model) -> scalar, of a fixed batch whose first
    activations want a gradient; targets: layer names.
    """

    name: str
    make: Callable[[], nn.Module]
    loss: Callable[[nn.Module], Tensor]
    targets: list[str]


def layers() -> Subject:
    """q, k and v of one attention layer, d = k = 768, over 512 tokens."""

    class Projections(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(768, 768) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.q(x).sum() + self.k(x).sum() + self.v(x).sum()

    x = torch.randn(512, 768, requires_grad=True)
    return Subject("three layers, 768 x 768, 512 tokens", Projections, lambda model: model(x), ["q", "k", "v"])


def transformer(name: str, load: Callable[[], tuple], batch: int, length: int) -> Subject:
    """A packaged model, all linear layers of its blocks, on random tokens. Its own dropout should be off."""
    model, _ = load()
    blocks = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and ".layer" in n]
    vocabulary = model.config.vocab_size
    ids = torch.randint(5, vocabulary, (batch, length))
    causal = hasattr(model, "generate")
    labels = ids if causal else torch.randint(0, 2, (batch,))
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_(True)

    def loss(model: nn.Module) -> Tensor:
        return model(inputs_embeds=embedded, labels=labels).loss

    title = f"{name}, {batch} x {length} tokens"
    return Subject(title, lambda: copy.deepcopy(model), loss, sorted({n.rpartition(".")[2] for n in blocks}))


def subjects() -> Iterator[Subject]:
    """The layer shapes, the packaged encoder, the packaged language model, one after the other: they are large."""
    from lora_course.assets import load_causal_lm, load_encoder

    yield layers()
    yield transformer("all-MiniLM-L6-v2", lambda: load_encoder(base_dropout=0.0), 16, 64)
    yield transformer("SmolLM2-135M", load_causal_lm, 2, 128)


def measure_overhead(rounds: int = 15, progress: bool = True) -> list[Row]:
    """Every subject, method and dropout. rounds: steps of each of the three models, after two to warm up."""
    rows = []
    torch.manual_seed(0)
    for subject in subjects():
        cases = [(method, rank, p) for method, rank in CASES for p in DROPOUTS]
        for method, rank, dropout in tqdm(cases, desc=subject.name, disable=not progress):
            rows.append(compare(subject, method, rank, dropout, rounds))
    return rows


def compare(subject: Subject, method: str, rank: int, dropout: float, rounds: int) -> Row:
    frozen = subject.make().requires_grad_(False).train()
    config = AdapterConfig(method, rank, ALPHA, subject.targets, dropout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a head that stays frozen is meant
        ours = inject(subject.make(), config).train()
        theirs = peft_model(subject.make(), config).train()
    ways = [(frozen, nullcontext), (ours, nullcontext), (theirs, nullcontext), (ours, as_torch_multiplies)]
    seconds = [[] for _ in ways]
    for turn in range(rounds + 2):
        for (model, products), taken in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            with products():
                subject.loss(model).backward()
            if turn >= 2:
                taken.append(time.perf_counter() - start)
            for p in model.parameters():
                p.grad = None
    base, *with_adapters = (median(taken) for taken in seconds)
    stand_in = floor_model(subject.make(), config).train()
    saved = [saved_bytes(model, subject.loss) for model in (ours, theirs, stand_in)]
    overheads = [taken / base - 1 for taken in with_adapters]
    return Row(subject.name, method, rank, dropout, *overheads, *saved, base, rounds)


def peft_model(model: nn.Module, config: AdapterConfig) -> nn.Module:
    """PEFT's adapters for the same config; its LoRA-FA is LoRA with A frozen."""
    import peft

    common: dict[str, Any] = {"r": config.rank, "target_modules": [*config.target_modules]}
    if config.method == "vera":
        wrapped = peft.get_peft_model(model, peft.VeraConfig(vera_dropout=config.dropout, **common))
    else:
        settings = {"lora_alpha": config.alpha, "lora_dropout": config.dropout, "use_dora": config.method == "dora"}
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**common, **settings))
    if config.method == "lora_fa":
        for name, p in wrapped.named_parameters():
            if "lora_A" in name:
                p.requires_grad_(False)
    return wrapped


def saved_bytes(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> int:
    return measure(model, None, loss=lambda model, _: loss(model)).saved


# ------------------------------------------------------------------ the floor


class _Keep(torch.autograd.Function):
    """The identity, which keeps some tensors for a backward pass that does not need them."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, *kept: Tensor) -> Tensor:
        ctx.save_for_backward(*kept)
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, *[None] * len(ctx.saved_tensors)


class StandIn(nn.Module):
    """A frozen layer that keeps for the backward pass exactly what the method's gradients need.

        LoRA, DoRA  x, or its dropped copy      LoRA, LoRA-FA, VeRA, DoRA  N r numbers      DoRA  N k numbers
    and where x is dropped, a mask of one byte an entry. What depends on x alone is kept once for all layers that read
    it: `shared` holds it for the last x.
    """

    def __init__(self, base: nn.Module, config: AdapterConfig, shared: dict):
        super().__init__()
        self.base, self.config, self.shared = base, config, shared

    def forward(self, x: Tensor) -> Tensor:
        method, p = self.config.method, self.config.dropout
        if self.shared.get("x") is not x:
            of_x = [torch.empty_like(x, dtype=torch.bool)] if p else []
            if method in ("lora", "dora"):
                of_x.append(torch.empty_like(x) if p else x.detach())
            self.shared.update(x=x, kept=of_x)
        tokens = x.shape[:-1].numel()
        kept = [*self.shared["kept"], x.new_empty(tokens, self.config.rank)]
        if method == "dora":
            kept.append(x.new_empty(tokens, weight_view(self.base).shape[0]))
        return _Keep.apply(self.base(x), *kept)


def floor_model(model: nn.Module, config: AdapterConfig) -> nn.Module:
    """The frozen model with stand-ins for its target layers."""
    targets = find_targets(model.requires_grad_(False), config)
    shared: dict = {}
    for name, base in targets.items():
        model.set_submodule(name, StandIn(base, config, shared))
    return model


# ------------------------------------------------------------------ the report


def report(rows: list[Row], machine: str) -> str:
    """A section of Markdown: one table for each model."""
    from lora_course.tables import in_units, markdown_table

    parts = [
        "## What an adapter adds to a step",
        "Ours beside PEFT's, forward and backward. Written by `lora-course bench overhead` on "
        f"{machine}. Overhead: the time of a step beyond that of the frozen model that computes "
        "its input gradients, as a share of the latter; medians of steps taken in turn in one process. Kept: what "
        "autograd holds for the backward pass, the model's own activations included. Floor: the same for a stand-in "
        "that keeps only what the gradients need (with dropout, a mask of one byte an entry). All linear layers have "
        "adapters; float32." + (ONEDNN if mkl_leaves_avx512_idle() else ""),
        f"At most {AIM} of PEFT's overhead: {_within_aim(row.ratio for row in rows)} rows; with torch's products for "
        f"both {_within_aim(row.ratio_torch_products for row in rows)}.",
    ]
    for name in dict.fromkeys(row.model for row in rows):
        mine = [row for row in rows if row.model == name]
        parts.append(f"### {name}\n\nFrozen step {mine[0].frozen_seconds * 1000:.0f} ms, {mine[0].rounds} rounds.")
        header = ["method", "r", "dropout", "overhead", "PEFT's", "ours / PEFT's", "kept", "PEFT's", "floor"]
        header.append("ours / PEFT's with torch's products")
        cells = [
            [
                f"`{row.method}`",
                str(row.rank),
                f"{row.dropout:g}",
                f"{row.overhead_ours:.1%}",
                f"{row.overhead_peft:.1%}",
                f"{row.ratio:.2f}",
                in_units(row.saved_bytes_ours),
                in_units(row.saved_bytes_peft),
                in_units(row.saved_bytes_floor),
                f"{row.ratio_torch_products:.2f}",
            ]
            for row in mine
        ]
        parts.append(markdown_table([header, *cells]))
    return "\n\n".join(parts) + "\n"


def _within_aim(ratios: Iterable[float]) -> str:
    ratios = [*ratios]
    return f"{sum(ratio <= AIM for ratio in ratios)} of {len(ratios)}"


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]
