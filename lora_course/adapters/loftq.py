"""LoftQ: LoRA-Fine-Tuning-aware Quantization (Li et al. 2023, arXiv:2310.08659).

    from A = B = 0 repeat   Q = nf4(W - s B A);   s B A = best rank-r approximation of W - Q      (their algorithm 1)
    then train              h = Q x + b + s B A dropout(x),    Q frozen

LoRA on a base that was quantized first begins at Q, not at W. LoftQ quantizes and chooses the start of A and B
together, so that Q + s B A begins nearer to W. What the r largest singular values of the error cannot hold is lost:
the smaller r and the flatter their spectrum, the less there is to gain. W itself is gone, so files hold Q with A and B.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lora_course.adapters.base import at_least_float32, is_packed, weight_view
from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.lora import LoRA
from lora_course.adapters.pissa import best_factors, check_decomposable


class LoftQ(LoRA):
    """LoRA on a base that it quantizes itself, with A and B that make up for what that loses. r (in + out) trainable.

    Takes the model as it is before `quantize_base`. `eject` leaves the quantized layers; like every quantized base
    they refuse a merge.

    Raises ValueError for an embedding, a layer that is quantized already, a rank above min(in, out), a weight that is
    not finite or has no values (meta device), and through `inject` for one that another layer uses too.
    """

    kinds = ("linear", "conv1d")
    changes_base = True
    peft_type = None  # PEFT's LORA files do not hold the base they belong to
    rounds: ClassVar[int] = 5

    @classmethod
    def check(cls, base_layer: nn.Module, config: AdapterConfig) -> None:
        super().check(base_layer, config)
        if is_packed(base_layer):
            raise ValueError("loftq quantizes the base itself, from the whole weight: inject it without quantize_base")
        check_decomposable(base_layer, config)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        from lora_course.quantization.linear import NF4Layer  # here, since quantization builds on this package

        (W,) = at_least_float32(weight_view(self.base_layer))
        change = torch.zeros_like(W)
        for _ in range(self.rounds):
            quantized = NF4Layer(self.base_layer, W - change)
            A, B = best_factors(W - quantized.dense().to(W.dtype), self.config.rank, self.scaling)
            change = self.scaling * (B @ A)
        self.lora_A.copy_(A)
        self.lora_B.copy_(B)
        self.base_layer = quantized

    def file_tensors(self) -> dict[str, Tensor]:
        base = {f"quantized.{name}": tensor for name, tensor in self.base_layer.packed().items()}
        return {"lora_A.weight": self.lora_A.detach(), "lora_B.weight": self.lora_B.detach()} | base

    @torch.no_grad()
    def load_file_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        for name, own in self.file_tensors().items():
            own.copy_(tensors[name])
