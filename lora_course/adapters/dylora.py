"""DyLoRA (Valipour et al. 2022, arXiv:2210.07558): one training run, an adapter for every rank up to r.

    training     draw b from 1..r, each as likely;  h = W x + c + alpha / b  B[:, :b] A[:b] x
    evaluation   the same with the b of your choice, r to begin with                      (c: the bias)

The rows of A and columns of B are used in order, so the first ones learn to do without the others, and cutting A and
B after b leaves the rank-b LoRA of the same alpha that was trained. Each layer draws for itself, in its forward pass,
from torch's CPU generator: `torch.manual_seed` repeats a run, and checkpointed layers recompute with the same b.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_course.adapters.base import at_least_float32
from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.lora import LoRA


class DyLoRA(LoRA):
    """LoRA that trains all its truncations at once. r (in + out) trainable; `merge` uses the rank of evaluation."""

    def __init__(self, base_layer: nn.Module, config: AdapterConfig):
        super().__init__(base_layer, config)
        self.eval_rank = config.rank

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in), or token ids (...) on an embedding; returns (..., out)."""
        h = self.base_layer(x)  # (..., out)
        if self.merged:
            return h
        b = int(torch.randint(1, self.config.rank + 1, (), device="cpu")) if self.training else self.eval_rank
        a = self.project_in(self.dropout(x), self.lora_A[:b])  # (..., b)
        delta = F.linear(a, self.lora_B[:, :b]) * (self.config.alpha / b)  # (..., out)
        return h + delta.to(h.dtype)

    def delta_weight(self) -> Tensor:
        """The change at the rank of evaluation, (out, in). In half precision the product is taken in float32."""
        A, B = at_least_float32(self.lora_A[: self.eval_rank], self.lora_B[:, : self.eval_rank])
        return (B @ A) * self.scaling

    @property
    def scaling(self) -> float:
        return self.config.alpha / self.eval_rank

    def as_lora(self, rank: int) -> LoRA:
        """The rank-b LoRA inside: the same base layer, copies of A[:b] and B[:, :b], the same alpha."""
        plain = replace(self.config, method="lora", rank=rank)
        return LoRA(self.base_layer, plain, self.lora_A[:rank], self.lora_B[:, :rank]).train(self.training)

    def plain_lora(self) -> LoRA:
        """What a file holds: the LoRA at the rank of evaluation."""
        return self.as_lora(self.eval_rank)


def set_rank(model: nn.Module, rank: int) -> nn.Module:
    """Evaluate and merge every DyLoRA layer at this rank; training goes on drawing. Returns `model`.

    Raises ValueError, before anything is changed, for a rank outside 1..r, a merged model, or one without DyLoRA.
    """
    for layer in _layers(model, rank).values():
        layer.eval_rank = rank
    return model


def truncate(model: nn.Module, rank: int) -> nn.Module:
    """Replace every DyLoRA layer by the plain LoRA of this rank that it holds: fewer parameters, and files that PEFT
    opens. Make a new optimizer if you train on. Returns `model`; raises like `set_rank`.
    """
    layers = _layers(model, rank)
    plain = {layer: layer.as_lora(rank) for layer in dict.fromkeys(layers.values())}
    for name, layer in layers.items():
        model.set_submodule(name, plain[layer])
    return model


def _layers(model: nn.Module, rank: int) -> dict[str, DyLoRA]:
    layers = {name: m for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, DyLoRA)}
    if not layers:
        raise ValueError("no DyLoRA layer: inject(model, AdapterConfig(method='dylora', ...)) first")
    largest = next(iter(layers.values())).config.rank
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= largest:
        raise ValueError(f"rank must be a whole number from 1 to {largest}, the rank of training; got {rank!r}")
    if any(layer.merged for layer in layers.values()):
        raise ValueError("the adapters are merged into the base at another rank: call unmerge(model) first")
    return layers
