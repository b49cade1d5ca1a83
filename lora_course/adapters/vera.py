"""VeRA: Vector-based Random Matrix Adaptation (Kopiczko et al. 2023, arXiv:2310.11454).

    h = W x + b + lambda_b * (B (lambda_d * (A dropout(x))))          (their equation 2; * entry by entry)

A (r, widest in) and B (widest out, r) are random, frozen, and the same for the whole model: a layer takes the first
columns of A and the first rows of B. It trains two vectors, lambda_d (r), which starts at 0.1, and lambda_b (out),
which starts at 0, so that training begins at the pretrained model. A and B follow from a seed: no file needs them.
Their r is large, 256 and more, since it costs one number a layer. There is no alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_course.adapters import fused
from lora_course.adapters.base import Adapter, at_least_float32, weight_view
from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.dropout import SharedDropout, dropped


class SharedPair(nn.Module):
    """A (r, in) and B (out, r), kaiming uniform: a function of seed and sizes, drawn on the CPU as PEFT draws them.

    One module that many layers hold: it moves, copies and pickles as one, and stays out of state_dicts.
    """

    def __init__(self, rank: int, in_features: int, out_features: int, seed: int, like: Tensor):
        super().__init__()
        generator = torch.Generator("cpu").manual_seed(seed)
        for name, shape in (("A", (rank, in_features)), ("B", (out_features, rank))):
            values = nn.init.kaiming_uniform_(torch.empty(shape, device="cpu"), generator=generator)
            self.register_buffer(name, values.to(like.device, like.dtype), persistent=False)


class VeRA(Adapter):
    """Two trainable vectors around a shared random pair: r + out trainable. `alpha` plays no part.

    pair: the model's A and B, at least as large as this layer needs; a pair of its own if None.

    Raises ValueError for an embedding.
    """

    kinds = ("linear", "conv1d")
    peft_type = "VERA"
    peft_fields = {"r": "rank", "vera_dropout": "dropout", "projection_prng_key": "seed"}
    peft_constants = {"bias": "none", "save_projection": False}

    def __init__(self, base_layer: nn.Module, config: AdapterConfig, pair: SharedPair | None = None):
        super().__init__(base_layer, config)
        if pair is None:
            pair = SharedPair(config.rank, self.in_features, self.out_features, config.seed, self.weight)
        self.pair = pair
        self.vera_lambda_b = self.new_parameter(self.out_features)
        self.vera_lambda_d = self.new_parameter(config.rank)
        self.dropout = SharedDropout(config.dropout) if config.dropout else nn.Identity()
        nn.init.zeros_(self.vera_lambda_b)
        nn.init.constant_(self.vera_lambda_d, 0.1)

    @classmethod
    def prepare(cls, model: nn.Module, targets: Mapping[str, nn.Module], config: AdapterConfig) -> dict[str, Any]:
        """The one pair for all layers, as wide as the widest."""
        layers = [*targets.values()]
        outs, ins = zip(*(weight_view(layer).shape for layer in layers), strict=True)
        return {"pair": SharedPair(config.rank, max(ins), max(outs), config.seed, layers[0].weight)}

    @staticmethod
    def count_trainable(in_features: int, out_features: int, rank: int) -> int:
        return rank + out_features

    def slices(self) -> tuple[Tensor, Tensor]:
        """This layer's part of the pair: A (r, in), B (out, r), views where device and dtype are the layer's own."""
        like = self.vera_lambda_b
        A, B = self.pair.A[:, : self.in_features], self.pair.B[: self.out_features]
        return A.to(like.device, like.dtype), B.to(like.device, like.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in); returns (..., out)."""
        if fused.usable(self, x, self.vera_lambda_d, self.vera_lambda_b):
            branch, vectors = dropped(self.dropout, x), (self.vera_lambda_d, self.vera_lambda_b)
            return fused.VeRAStep.apply(x, branch, *fused.frozen(self), *self.slices(), *vectors)
        h = self.base_layer(x)  # (..., out)
        if self.merged:
            return h
        A, B = self.slices()
        a = self.vera_lambda_d * self.project_in(self.dropout(x), A)  # (..., r)
        delta = self.vera_lambda_b * F.linear(a, B)  # (..., out)
        return h + delta.to(h.dtype)

    def delta_weight(self) -> Tensor:
        """(lambda_b * B) (lambda_d * A), (out, in). In half precision the product is taken in float32."""
        A, B, d, b = at_least_float32(*self.slices(), self.vera_lambda_d, self.vera_lambda_b)
        return (b.unsqueeze(1) * B) @ (d.unsqueeze(1) * A)

    def file_names(self) -> dict[str, str]:
        return {name: name for name in ("vera_lambda_b", "vera_lambda_d")}

    def shared_file_tensors(self) -> dict[str, Tensor]:
        return {"base_model.vera_A": self.pair.A, "base_model.vera_B": self.pair.B}
