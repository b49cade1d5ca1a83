"""AdaLoRA (Zhang et al. 2023, arXiv:2303.10512): one budget of ranks for the model, spent where it matters.

    h = W x + b + alpha / (r + 1e-5)  B (A * E) x         E (r, 1): one factor for each rank, starting at 0

A and B stand for singular vectors and E for singular values, so that a rank can be switched off by one number, and on
again. rank_allocator.py decides which. Masked ranks keep their memory; a file holds only the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_course.adapters.base import Adapter, at_least_float32
from lora_course.adapters.config import AdapterConfig


class AdaLoRA(Adapter):
    """A rank-r update in three factors, r (in + out + 1) trainable. `config.rank` is the rank to begin with.

    kept: (r,) buffer, which ranks have not been masked. Raises ValueError for an embedding.
    """

    kinds = ("linear", "conv1d")
    peft_type = "ADALORA"
    peft_fields = {"init_r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"}
    peft_constants = {"bias": "none", "total_step": 1}  # a schedule, which PEFT asks for even of what is trained

    def __init__(self, base_layer: nn.Module, config: AdapterConfig):
        super().__init__(base_layer, config)
        self.lora_A = self.new_parameter(config.rank, self.in_features)
        self.lora_E = self.new_parameter(config.rank, 1)
        self.lora_B = self.new_parameter(self.out_features, config.rank)
        device = self.weight.device
        self.register_buffer("kept", torch.ones(config.rank, dtype=torch.bool, device=device))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        nn.init.normal_(self.lora_A, std=0.02)
        nn.init.zeros_(self.lora_E)
        nn.init.normal_(self.lora_B, std=0.02)

    @staticmethod
    def count_trainable(in_features: int, out_features: int, rank: int) -> int:
        return rank * (in_features + out_features + 1)

    @property
    def scaling(self) -> float:
        return self.config.alpha / (self.config.rank + 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in); returns (..., out)."""
        h = self.base_layer(x)  # (..., out)
        if self.merged:
            return h
        a = self.project_in(self.dropout(x), self.lora_A * self.lora_E)  # (..., r)
        delta = F.linear(a, self.lora_B) * self.config.alpha / (self.config.rank + 1e-5)  # (..., out)
        return h + delta.to(h.dtype)

    def delta_weight(self) -> Tensor:
        """(B (A * E)) alpha / (r + 1e-5), (out, in). In half precision the product is taken in float32."""
        A, E, B = at_least_float32(*self.factors())
        return (B @ (A * E)) * self.config.alpha / (self.config.rank + 1e-5)

    def factors(self) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
        return self.lora_A, self.lora_E, self.lora_B

    def file_tensors(self) -> dict[str, Tensor]:
        """PEFT's file holds the ranks kept, and its config which ones they are."""
        A, E, B = (p.detach() for p in self.factors())
        return {"lora_A": A[self.kept], "lora_E": E[self.kept], "lora_B": B[:, self.kept]}

    @torch.no_grad()
    def load_file_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """`kept` says where the rows go; a masked rank gets E = 0."""
        self.lora_A[self.kept] = tensors["lora_A"].to(self.lora_A)
        self.lora_B[:, self.kept] = tensors["lora_B"].to(self.lora_B)
        self.lora_E.zero_()[self.kept] = tensors["lora_E"].to(self.lora_E)

    @classmethod
    def layer_settings(cls, layers: Mapping[str, AdaLoRA]) -> dict[str, Any]:
        return {"rank_pattern": {f"{name}.lora_E": layer.kept.tolist() for name, layer in layers.items()}}

    def use_layer_settings(self, settings: Mapping[str, Any], name: str, fresh: bool) -> None:
        kept = (settings.get("rank_pattern") or {}).get(f"{name}.lora_E", [True] * self.config.rank)
        if len(kept) != self.config.rank:
            raise ValueError(f"rank_pattern of {name} has {len(kept)} entries for a rank of {self.config.rank}")
        self.kept.copy_(torch.tensor(kept, dtype=torch.bool))
