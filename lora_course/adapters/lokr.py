"""LoKr: Low-rank Kronecker product (Edalati et al. 2022, KronA, arXiv:2212.10650; LyCORIS, arXiv:2309.14859).

    h = W x + b + s (C kron D) x,    s = alpha / rank,    D = D_a D_b of rank r where that is smaller

Split out = p k and in = m n, each into factors as near to its square root as there are. C is (p, m), D is (k, n), and
C kron D is the (p k, m n) matrix of blocks C_ij D. So few numbers can make an update of high rank: the rank is that of
C times that of D. C starts at zero, D random. A prime size cannot be split (1 and itself), and then saves little.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lora_course.adapters.base import Adapter, at_least_float32
from lora_course.adapters.config import AdapterConfig


class LoKr(Adapter):
    """An update made of a small matrix of scaled copies of another: `count_trainable` says how few parameters.

    The names of its parameters are PEFT's: lokr_w1 is C (p, m); D is lokr_w2 (k, n), or lokr_w2_a (k, r) and
    lokr_w2_b (r, n) if r is below half the larger of k and n.
    Raises ValueError for an embedding, or dropout, which has no thin factor to go into.
    """

    kinds = ("linear", "conv1d")
    has_dropout = False
    peft_type = "LOKR"
    peft_fields = {"r": "rank", "alpha": "alpha"}
    peft_constants = {"decompose_both": False, "decompose_factor": -1}

    def __init__(self, base_layer: nn.Module, config: AdapterConfig):
        super().__init__(base_layer, config)
        for name, shape in factor_shapes(self.in_features, self.out_features, config.rank).items():
            setattr(self, name, self.new_parameter(*shape))
            if name == "lokr_w1":
                nn.init.zeros_(self.lokr_w1)
            else:
                nn.init.kaiming_uniform_(getattr(self, name), a=math.sqrt(5))

    @staticmethod
    def count_trainable(in_features: int, out_features: int, rank: int) -> int:
        """p m + k n, or p m + r (k + n)."""
        return sum(rows * columns for rows, columns in factor_shapes(in_features, out_features, rank).values())

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in); returns (..., out)."""
        h = self.base_layer(x)  # (..., out)
        if self.merged:
            return h
        return h + self.project_in(x, kronecker(*self._factors()) * self.scaling).to(h.dtype)

    def delta_weight(self) -> Tensor:
        """s C kron D, (out, in). In half precision the products are taken in float32."""
        return kronecker(*at_least_float32(*self._factors())) * self.scaling

    def _factors(self) -> list[Tensor]:
        return [*self.parameters(recurse=False)]  # C, then D or D_a and D_b

    def file_names(self) -> dict[str, str]:
        return {name: name for name, _ in self.named_parameters(recurse=False)}


def factor_shapes(in_features: int, out_features: int, rank: int) -> dict[str, tuple[int, int]]:
    """Parameter name -> shape."""
    (p, k), (m, n) = split(out_features), split(in_features)
    if rank < max(k, n) / 2:
        return {"lokr_w1": (p, m), "lokr_w2_a": (k, rank), "lokr_w2_b": (rank, n)}
    return {"lokr_w1": (p, m), "lokr_w2": (k, n)}


def split(size: int) -> tuple[int, int]:
    """Two factors of `size`, the first the largest that is at most its square root."""
    first = max(f for f in range(1, math.isqrt(size) + 1) if size % f == 0)
    return first, size // first


def kronecker(C: Tensor, *D: Tensor) -> Tensor:
    """C kron D, where D is given whole, (k, n), or as two factors (k, r) and (r, n)."""
    return torch.kron(C, D[0] if len(D) == 1 else D[0] @ D[1])
