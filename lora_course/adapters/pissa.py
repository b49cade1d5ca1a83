"""PiSSA: Principal Singular values and Singular vectors Adaptation (Meng et al. 2024, arXiv:2404.02948).

    W = U S V^T;  B = U_r sqrt(S_r / s),  A = sqrt(S_r / s) V_r^T: s B A holds the r largest singular values
    W_res = W - s B A stays frozen in the base layer;  h = W_res x + b + s B A dropout(x)

LoRA's equation with another start: what is trained is the most important part of W, not a zero, so gradients are large
at once; outputs begin as the model's to rounding. The price: the base weight changes, so A and B alone mean nothing.
With A_0, B_0 for their start, W + s (B A - B_0 A_0) is a plain LoRA of rank 2 r around the untouched W; files hold it.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from lora_course.adapters.base import at_least_float32, is_packed, weight_view
from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.lora import LoRA


class PiSSA(LoRA):
    """LoRA that starts from the principal part of W and leaves the rest in the base layer. r (in + out) trainable.

    initial_A (r, in), initial_B (out, r): buffers, what was taken from the base layer. `eject` gives it back, and the
    base weight is the one it was, to rounding (2^-24 of the larger of W and s B A in float32).

    Raises ValueError for an embedding, a rank above min(in, out), a weight that is not finite, has no values (meta
    device) or is quantized, and through `inject` for a weight that another layer of the model uses too.
    """

    kinds = ("linear", "conv1d")
    changes_base = True

    @classmethod
    def check(cls, base_layer: nn.Module, config: AdapterConfig) -> None:
        super().check(base_layer, config)
        if is_packed(base_layer):
            raise ValueError(
                f"{config.method} begins by changing the base weight, and this one is quantized: use method='loftq' "
                "in place of quantize_base, or another method after it"
            )
        check_decomposable(base_layer, config)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        W = weight_view(self.base_layer)
        A, B = self.principal_part(*at_least_float32(W))
        self.lora_A.copy_(A)
        self.lora_B.copy_(B)
        self.register_buffer("initial_A", self.lora_A.detach().clone())
        self.register_buffer("initial_B", self.lora_B.detach().clone())
        W.copy_(W - self.initial_part())

    def principal_part(self, W: Tensor) -> tuple[Tensor, Tensor]:
        """A (r, in), B (out, r) with s B A the best approximation of W (out, in) of rank r."""
        return best_factors(W, self.config.rank, self.scaling)

    def initial_part(self) -> Tensor:
        """s B_0 A_0, (out, in). In half precision the product is taken in float32."""
        A, B = at_least_float32(self.initial_A, self.initial_B)
        return (self.scaling * B) @ A

    @torch.no_grad()
    def release(self) -> nn.Module:
        if not self.merged:
            W = weight_view(self.base_layer)
            W.copy_(W + self.initial_part())
        return self.base_layer

    @torch.no_grad()
    def plain_lora(self) -> LoRA:
        """W + s [B, -B_0] [A; A_0]: a LoRA of rank 2 r and the same s, around a copy of the base layer as it was."""
        base = copy.deepcopy(self.base_layer)
        weight_view(base).add_(self.initial_part())
        rank, alpha = 2 * self.config.rank, 2 * self.config.alpha
        A = torch.cat([self.lora_A, self.initial_A])  # (2 r, in)
        B = torch.cat([self.lora_B, -self.initial_B], dim=1)  # (out, 2 r)
        return LoRA(base, replace(self.config, method="lora", rank=rank, alpha=alpha), A, B).train(self.training)


def best_factors(W: Tensor, rank: int, s: float) -> tuple[Tensor, Tensor]:
    """A (rank, in), B (out, rank) with s B A the matrix of that rank nearest to W (out, in), by its singular values."""
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    root = torch.sqrt(S[:rank] / s)  # (rank,)
    return torch.diag(root) @ Vh[:rank], U[:, :rank] @ torch.diag(root)


def check_decomposable(base_layer: nn.Module, config: AdapterConfig) -> None:
    """Raise ValueError for a rank above min(in, out), and a weight that is not finite or has no values."""
    out_features, in_features = weight_view(base_layer).shape
    if config.rank > min(out_features, in_features):
        raise ValueError(
            f"{config.method} takes rank {config.rank} out of a weight of {out_features} x {in_features}: the "
            f"rank can be at most {min(out_features, in_features)}"
        )
    if base_layer.weight.is_meta or not torch.isfinite(base_layer.weight).all():
        raise ValueError(f"{config.method} decomposes the weight, which has no values or holds NaN or infinity")
