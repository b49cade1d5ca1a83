"""DoRA: Weight-Decomposed Low-Rank Adaptation (Liu et al. 2024, arXiv:2402.09353).

    W' = m * V / ||V||,  V = W + s B A;    h = W' x + b          (their equation 5; one m and one norm for each output)

A weight row is a length times a direction: DoRA trains the length m (out) as such, and lets LoRA turn the direction.
m starts at ||W||, so that training begins at the pretrained model. The norm counts as a constant in the backward pass
(their section 4.3), which saves its graph; and it needs no (out, in) temporary, since with C = W A^T, (out, r),
    ||V_i||^2 = ||W_i||^2 + 2 s C_i . B_i + s^2 B_i (A A^T) B_i^T
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_course.adapters import fused
from lora_course.adapters.base import weight_view
from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.dropout import dropped
from lora_course.adapters.lora import LoRA


class DoRA(LoRA):
    """LoRA with trained row lengths: r (in + out) + out trainable.

    Dropout, in training, drops entries of x for the whole of the change, (W' - W) x, and never for W x.
    """

    peft_marks = {"use_dora": True}

    def __init__(self, base_layer: nn.Module, config: AdapterConfig):
        super().__init__(base_layer, config)
        self.lora_magnitude_vector = self.new_parameter(self.out_features)
        with torch.no_grad():
            self.lora_magnitude_vector.copy_(self.row_norm())

    @staticmethod
    def count_trainable(in_features: int, out_features: int, rank: int) -> int:
        return rank * (in_features + out_features) + out_features

    @torch.no_grad()
    def row_norm(self) -> Tensor:
        """||W + s B A|| of each row, (out,), in float32 or better."""
        W, A, B, s = weight_view(self.base_layer), self.lora_A, self.lora_B, self.scaling
        wide = torch.promote_types(W.dtype, torch.float32)
        C = (W @ A.T.to(W.dtype)).to(wide)  # (out, r)
        A, B = A.to(wide), B.to(wide)
        squares = torch.linalg.vector_norm(W, dim=1, dtype=wide).square()  # (out,)
        squares = squares + 2 * s * (C * B).sum(1) + s**2 * ((B @ (A @ A.T)) * B).sum(1)
        return squares.clamp_min(0).sqrt()

    def stretch(self) -> Tensor:
        """m / ||V||, (out,), with a gradient for m alone, in float32 or better. 1 for a row of zeros."""
        return fused.stretch(self.lora_magnitude_vector, self.row_norm())

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in), or token ids (...) on an embedding; returns (..., out)."""
        if fused.usable(self, x, self.lora_A, self.lora_B, self.lora_magnitude_vector):
            frozen, own = fused.frozen(self), (self.lora_A, self.lora_B, self.lora_magnitude_vector)
            return fused.DoRAStep.apply(x, dropped(self.dropout, x), *frozen, *own, self.row_norm(), self.scaling)
        h = self.base_layer(x)  # (..., out)
        if self.merged:
            return h
        Wx, branch = h, dropped(self.dropout, x)
        if branch is not None:
            x, Wx = branch, self.base_layer(branch)
        if self.bias is not None:
            Wx = Wx - self.bias
        delta = F.linear(self.project_in(x, self.lora_A), self.lora_B) * self.scaling  # (..., out)
        delta = delta.to(h.dtype)
        return h + delta + (self.stretch() - 1).to(h.dtype) * (Wx + delta)

    def delta_weight(self) -> Tensor:
        """m / ||V|| V - W, (out, in), of a layer that is not merged."""
        V = weight_view(self.base_layer) + super().delta_weight()
        return self.stretch().unsqueeze(1) * V - weight_view(self.base_layer)

    def merge_problem(self) -> str:
        if not self.stretch().all():
            return "has a row of length 0, which no unmerge could undo"
        return super().merge_problem()

    def fold(self) -> None:
        W = weight_view(self.base_layer)
        self.merged_stretch = self.stretch().unsqueeze(1)  # of V, which will be gone
        W.copy_(self.merged_stretch * (W + super().delta_weight()))

    def unfold(self) -> None:
        W = weight_view(self.base_layer)
        W.copy_(W / self.merged_stretch - super().delta_weight())
        del self.merged_stretch

    def file_names(self) -> dict[str, str]:
        return super().file_names() | {"lora_magnitude_vector": "lora_magnitude_vector"}
