"""How each method is trained where methods are compared: its learning rate, its rank, and what it needs besides.

One learning rate for all would decide the comparison beforehand: two vectors around a random pair (VeRA) or one factor
for each output ((IA)^3) want larger steps than matrices do. So each has its own, shown with the results: of two or so
tries with seed 0, the one with the lowest loss on 200 validation sentences. Reasonable, not tuned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lora_course.adapters import METHODS
from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.delta_lora import DeltaUpdate
from lora_course.adapters.inject import inject
from lora_course.adapters.optimizers import make_optimizer
from lora_course.adapters.rank_allocator import RankAllocator


@dataclass(frozen=True)
class Recipe:
    """learning_rate: the highest of the run. optimizer: what `make_optimizer` calls it. note: what else is done."""

    learning_rate: float
    rank: int = 8
    alpha: float = 16
    optimizer: str = "adamw"
    note: str = ""


RECIPES = {
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


def prepare(
    method: str, model: nn.Module, recipe: Recipe, total_steps: int, seed: int
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Put the method's adapters into all linear layers, and return the model with its optimizer.

    Delta-LoRA's update and AdaLoRA's allocator hang on the optimizer. Raises ValueError for an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; there are {', '.join(METHODS)}")
    torch.manual_seed(seed)
    inject(model, AdapterConfig(method, recipe.rank, recipe.alpha, trainable=["classifier"], seed=seed))
    optimizer = make_optimizer(model, recipe.learning_rate, recipe.optimizer)
    warmup = round(WARMUP * total_steps)
    if method == "delta_lora":
        DeltaUpdate(model, optimizer, lam=0.5, start=warmup)
    if method == "adalora" and total_steps > 2 * warmup + 1:
        RankAllocator(model, optimizer, TARGET_RANK, total_steps, warmup=warmup, final=warmup)
    return model, optimizer
