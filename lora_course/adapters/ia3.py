"""(IA)^3: Infused Adapter by Inhibiting and Amplifying Inner Activations (Liu et al. 2022, arXiv:2205.05638).

    output   h = l * (W x + b)          l (out), starting at 1; * entry by entry
    input    h = W (l * x) + b          l (in)

The paper scales the keys, the values, and inside each feed-forward block what goes into its second layer:
    softmax(Q (l_k * K)^T / sqrt(d_k)) (l_v * V)          W_2 (l_ff * act(W_1 x))
So it is "output" for the projections of keys and values and "input" for W_2. `inject` makes all layers "output";
`scale_inputs(model, ["output.dense"])` after it makes some "input". There is no rank, alpha or dropout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lora_course.adapters.base import Adapter, weight_view
from lora_course.adapters.config import AdapterConfig


class IA3(Adapter):
    """One trained factor for each output, out trainable, or for each input, in trainable. `rank` and `alpha` play no
    part.

    Raises ValueError for an embedding or dropout.
    """

    kinds = ("linear", "conv1d")
    has_dropout = False
    peft_type = "IA3"

    def __init__(self, base_layer: nn.Module, config: AdapterConfig):
        super().__init__(base_layer, config)
        self.scale("output")

    def scale(self, side: str) -> None:
        """Begin anew with factors of 1 for "output" or "input"."""
        self.side = side
        self.ia3_l = self.new_parameter(self.in_features if side == "input" else self.out_features)
        nn.init.ones_(self.ia3_l)

    @staticmethod
    def count_trainable(in_features: int, out_features: int, rank: int) -> int:
        """For "output"."""
        return out_features

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in); returns (..., out)."""
        if self.merged:
            return self.base_layer(x)
        if self.side == "input":
            return self.base_layer((x * self.ia3_l).to(x.dtype))
        h = self.base_layer(x)  # (..., out)
        return (h * self.ia3_l).to(h.dtype)

    def delta_weight(self) -> Tensor:
        """(l - 1) * W, (out, in), of a layer that is not merged. For "output" the bias changes too."""
        return (self._by_row(self.ia3_l) - 1) * weight_view(self.base_layer)

    def merge_problem(self) -> str:
        if not self.ia3_l.all():
            return "has a factor of 0, which no unmerge could undo"
        return super().merge_problem()

    def fold(self) -> None:
        weight_view(self.base_layer).mul_(self._by_row(self.ia3_l))
        if self.bias is not None and self.side == "output":
            self.bias.mul_(self.ia3_l)

    def unfold(self) -> None:
        weight_view(self.base_layer).div_(self._by_row(self.ia3_l))
        if self.bias is not None and self.side == "output":
            self.bias.div_(self.ia3_l)

    def _by_row(self, factors: Tensor) -> Tensor:
        return factors.unsqueeze(1 if self.side == "output" else 0)  # (out, 1) or (1, in), as in PEFT's files

    def file_tensors(self) -> dict[str, Tensor]:
        return {"ia3_l": self._by_row(self.ia3_l.detach())}

    @classmethod
    def layer_settings(cls, layers: Mapping[str, IA3]) -> dict[str, Any]:
        inputs = sorted(name for name, layer in layers.items() if layer.side == "input")
        # PEFT wants these to be among the targets, by the same names
        return {"feedforward_modules": inputs} | ({"target_modules": sorted(layers)} if inputs else {})

    def use_layer_settings(self, settings: Mapping[str, Any], name: str, fresh: bool) -> None:
        ends = settings.get("feedforward_modules") or []
        on_input = re.fullmatch(ends, name) if isinstance(ends, str) else name.endswith(tuple(ends))
        if fresh and on_input:
            self.scale("input")


def scale_inputs(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """Let the (IA)^3 layers with these name suffixes scale what goes in. Before training, since they begin anew at 1,
    and before `make_optimizer`. Returns `model`.

    Raises ValueError, before anything is changed, if a name matches no such layer or one is merged.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, IA3)}
    chosen = {}
    for suffix in names:
        matches = {name: layer for name, layer in layers.items() if f".{name}".endswith(f".{suffix}")}
        if not matches:
            raise ValueError(f"{suffix!r} matches no (IA)^3 layer; there are {', '.join(layers) or 'none'}")
        chosen |= matches
    if any(layer.merged for layer in chosen.values()):
        raise ValueError("the adapters are merged into the base: call unmerge(model) first")
    for layer in chosen.values():
        layer.scale("input")
    return model
