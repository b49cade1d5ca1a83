"""How each method is trained where methods are compared: its learning rate, its rank, and what it needs besides.

One learning rate for all would decide the comparison beforehand: two vectors around a random pair (VeRA) or one factor
for each output ((IA)^3) want larger steps than matrices do. So each has its own, shown with the results: of two or so
tries with seed 0, the one with the lowest loss on 200 validation sentences. Reasonable, not tuned.
A configuration is a method with a recipe, and `grid` makes many of them from one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import nn

from lora_course.adapters import METHODS
from lora_course.adapters.config import ALL_LINEAR, AdapterConfig
from lora_course.adapters.delta_lora import DeltaUpdate
from lora_course.adapters.inject import find_targets, inject
from lora_course.adapters.optimizers import make_optimizer
from lora_course.adapters.rank_allocator import RankAllocator
from lora_course.device import choose_device

Loader = Callable[[], tuple[Any, Any]]  # a fresh model with a new head, and its tokenizer
FULL = "full"  # every parameter is trained, no adapter


@dataclass(frozen=True)
class Recipe:
    """learning_rate: the highest of the run. optimizer: what `make_optimizer` calls it; ratio: LoRA+'s.

    targets: a key of TARGETS. note: what else is done.
    """

    learning_rate: float
    rank: int = 8
    alpha: float = 16
    optimizer: str = "adamw"
    note: str = ""
    targets: str = "all"
    ratio: float = 1.0


RECIPES = {
    FULL: Recipe(2e-4, note="no adapter"),
    "lora": Recipe(2e-3),
    "rslora": Recipe(1e-3),
    "lora_fa": Recipe(5e-3, optimizer="lora_fa", note="projected gradient"),
    "vera": Recipe(5e-2, rank=256),
    "delta_lora": Recipe(2e-3, note="lam 0.5, from the end of warm-up"),
    "dora": Recipe(2e-3),
    "pissa": Recipe(5e-4),
    "olora": Recipe(1e-3),
    "loftq": Recipe(2e-3, note="base in NF4"),
    "adalora": Recipe(2e-2, rank=12, note="rank 12 falls to 8 on average"),
    "dylora": Recipe(2e-3),
    "ia3": Recipe(3e-2),
    "loha": Recipe(1e-2),
    "lokr": Recipe(1e-2),
    "houlsby": Recipe(2e-3),
}
TARGET_RANK = 8  # AdaLoRA's, on average
WARMUP = 0.1  # of all steps
TARGETS = {  # which linear layers of BERT and its relatives, by the parts of their names
    "all": lambda name: True,
    "attention": lambda name: ".layer." in name and ".attention." in name,
    "query-value": lambda name: ".layer." in name and name.endswith((".query", ".value", ".q_lin", ".v_lin")),
    "mlp": lambda name: ".layer." in name and ".attention." not in name,
}


@dataclass(frozen=True)
class Configuration:
    """A method and how it is trained. name: short, its own in a comparison."""

    name: str
    method: str
    recipe: Recipe

    @property
    def file(self) -> str:
        """The name as a file's."""
        return re.sub(r"[^\w.=-]+", "_", self.name)

    @property
    def shape(self) -> str:
        """What decides time and memory: the same for two that only differ in learning rates."""
        return "-".join([self.method, f"r{self.recipe.rank}", self.recipe.targets, self.recipe.optimizer])

    def to_dict(self) -> dict[str, Any]:
        return {"method": self.method, **asdict(self.recipe)}


def configuration(method: str, **changes: Any) -> Configuration:
    """The method's own recipe, or that recipe with changes, which then stand in the name: "lora r=4 mlp lr=0.001".

    A new rank takes alpha along, so that alpha / rank stays. Raises ValueError for an unknown method or targets.
    """
    if method not in RECIPES:
        raise ValueError(f"unknown method {method!r}; there are {', '.join(RECIPES)}")
    own = RECIPES[method]
    if "rank" in changes:
        changes.setdefault("alpha", own.alpha * changes["rank"] / own.rank)
    recipe = replace(own, **changes)
    if recipe.targets not in TARGETS:
        raise ValueError(f"unknown targets {recipe.targets!r}; there are {', '.join(TARGETS)}")
    said = {
        "rank": f"r={recipe.rank}",
        "targets": recipe.targets,
        "ratio": f"ratio={recipe.ratio:g}",
        "learning_rate": f"lr={recipe.learning_rate:g}",
    }
    return Configuration(" ".join([method, *(text for key, text in said.items() if key in changes)]), method, recipe)


def grid(
    methods: Iterable[str], ranks: Sequence[int] = (), targets: Sequence[str] = (), rates: Sequence[float] = ()
) -> list[Configuration]:
    """Every method with every rank, targets and learning rate; what is left out is the recipe's own.

    Full fine-tuning and (IA)^3 have no rank, full fine-tuning no targets: they come once. Raises ValueError as
    `configuration` does.
    """
    found: dict[str, Configuration] = {}
    for method in methods:
        axes = {"rank": ranks, "targets": targets, "learning_rate": rates}
        without = {FULL: ("rank", "targets"), "ia3": ("rank",)}.get(method, ())
        used = {name: values for name, values in axes.items() if values and name not in without}
        for values in product(*used.values()):
            made = configuration(method, **dict(zip(used, values, strict=True)))
            found[made.name] = made
    return [*found.values()]


def prepare(
    method: str, model: nn.Module, recipe: Recipe, total_steps: int, seed: int
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Put the method's adapters into the recipe's layers, and return the model with its optimizer.

    Delta-LoRA's update and AdaLoRA's allocator hang on the optimizer. Raises ValueError for an unknown method, or
    targets that the model has not.
    """
    if method != FULL and method not in METHODS:
        raise ValueError(f"unknown method {method!r}; there are {', '.join(METHODS)}, and {FULL}")
    torch.manual_seed(seed)
    if method != FULL:
        names = target_names(model, recipe.targets)
        inject(model, AdapterConfig(method, recipe.rank, recipe.alpha, names, trainable=["classifier"], seed=seed))
    optimizer = make_optimizer(model, recipe.learning_rate, recipe.optimizer, ratio=recipe.ratio)
    warmup = round(WARMUP * total_steps)
    if method == "delta_lora":
        DeltaUpdate(model, optimizer, lam=0.5, start=warmup)
    if method == "adalora" and total_steps > 2 * warmup + 1:
        RankAllocator(model, optimizer, TARGET_RANK, total_steps, warmup=warmup, final=warmup)
    return model, optimizer


def load_without_dropout(name: str = "packaged") -> tuple[Any, Any]:
    """A fresh encoder with a new head and no dropout, on this machine's device, and its tokenizer."""
    from lora_course.assets import load_encoder

    model, tokenizer = load_encoder(name, base_dropout=0.0)
    return model.to(choose_device()), tokenizer


def first_reviews(reviews: Any, wanted: int, split: str) -> Any:
    """The first so many. Raises ValueError, naming the split, if there are fewer or none is asked for."""
    if not 1 <= wanted <= len(reviews):
        raise ValueError(f"{split}: {wanted} reviews asked for, there are {len(reviews)}")
    return reviews.select(range(wanted))


def target_names(model: nn.Module, targets: str) -> str | list[str]:
    """What `AdapterConfig(target_modules=…)` takes for a key of TARGETS. Raises ValueError if no layer is meant."""
    if targets == "all":
        return ALL_LINEAR
    everywhere = find_targets(model, AdapterConfig(trainable=["classifier"]))
    names = [name for name in everywhere if TARGETS[targets](f".{name}")]
    if not names:
        raise ValueError(f"targets {targets!r}: {type(model).__name__} has no linear layer of such a name")
    return names
