"""LoHa: Low-rank Hadamard product (Hyeon-Woo et al. 2021, FedPara, arXiv:2108.06098; LyCORIS, arXiv:2309.14859).

    h = W x + b + s ((A_1 B_1) * (A_2 B_2)) x,    s = alpha / rank          * entry by entry

The product entry by entry of two matrices of rank r can have any rank up to r^2 (FedPara's proposition 1), for the
parameters of two LoRAs of rank r. A_1, B_1, A_2 start random and B_2 at zero. The price: three (out, in) matrices are
made in every step, A_1 B_1, A_2 B_2 and the result. The first two are not kept for the backward pass, but made again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lora_course.adapters.base import Adapter, at_least_float32
from lora_course.adapters.config import AdapterConfig


class LoHa(Adapter):
    """An update of rank up to r^2: 2 r (in + out) trainable.

    The names of its parameters are PEFT's: hada_w1_a is A_1 (out, r), hada_w1_b is B_1 (r, in), and so on.
    Raises ValueError for an embedding, or dropout: entries of x meet no thin factor that they could be dropped for.
    """

    kinds = ("linear", "conv1d")
    has_dropout = False
    peft_type = "LOHA"
    peft_fields = {"r": "rank", "alpha": "alpha"}

    def __init__(self, base_layer: nn.Module, config: AdapterConfig):
        super().__init__(base_layer, config)
        for i in (1, 2):
            setattr(self, f"hada_w{i}_a", self.new_parameter(self.out_features, config.rank))
            setattr(self, f"hada_w{i}_b", self.new_parameter(config.rank, self.in_features))
        for factor in (self.hada_w1_a, self.hada_w1_b, self.hada_w2_a):
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
        nn.init.zeros_(self.hada_w2_b)

    @staticmethod
    def count_trainable(in_features: int, out_features: int, rank: int) -> int:
        return 2 * rank * (in_features + out_features)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in); returns (..., out)."""
        h = self.base_layer(x)  # (..., out)
        if self.merged:
            return h
        return h + self.project_in(x, self._product(*self._factors())).to(h.dtype)

    def delta_weight(self) -> Tensor:
        """s (A_1 B_1) * (A_2 B_2), (out, in). In half precision the products are taken in float32."""
        return self._product(*at_least_float32(*self._factors()))

    def _factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.hada_w1_a, self.hada_w1_b, self.hada_w2_a, self.hada_w2_b

    def _product(self, A1: Tensor, B1: Tensor, A2: Tensor, B2: Tensor) -> Tensor:
        return HadamardProduct.apply(A1, B1, A2, B2, self.scaling)

    def file_names(self) -> dict[str, str]:
        return {name: name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")}


class HadamardProduct(torch.autograd.Function):
    """s (A1 B1) * (A2 B2) -> (out, in), with a backward pass that keeps the four factors only.

    With G the gradient of the result and D = s G * (A2 B2):  dA1 = D B1^T,  dB1 = A1^T D;  the same for 2 with 1 and 2
    exchanged.
    """

    @staticmethod
    def forward(ctx: Any, A1: Tensor, B1: Tensor, A2: Tensor, B2: Tensor, s: float) -> Tensor:
        ctx.save_for_backward(A1, B1, A2, B2)
        ctx.s = s
        return (A1 @ B1) * (A2 @ B2) * s

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:
        A1, B1, A2, B2 = ctx.saved_tensors
        G = G * ctx.s  # (out, in)
        D = G * (A2 @ B2)
        dA1, dB1 = D @ B1.T, A1.T @ D
        D = G * (A1 @ B1)
        return dA1, dB1, D @ B2.T, A2.T @ D, None
