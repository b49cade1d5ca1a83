"""Bottleneck adapters: Parameter-Efficient Transfer Learning for NLP (Houlsby et al. 2019, arXiv:1902.00751).

    f = W x + b
    h = f + U gelu(D f + d) + u          D (m, out), d (m), U (out, m), u (out); m, the bottleneck, is `rank`

The ancestor of LoRA: not beside a layer but after it, with a nonlinearity in the middle. So it can do what no change of
W does, and so it cannot be merged: its cost stays at inference. The paper puts one after the last layer of attention
and of feed-forward blocks, before each is added to its residual (target_modules=["output.dense"] in BERT), and trains
the layer norms too (trainable=["LayerNorm"]). D and U start small, so that training begins near the pretrained model.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from lora_course.adapters.base import Adapter
from lora_course.adapters.config import AdapterConfig


class Houlsby(Adapter):
    """A small network with a skip connection after the layer: 2 m out + m + out trainable. `alpha` plays no part.

    Raises ValueError for dropout.
    """

    has_dropout = False

    def __init__(self, base_layer: nn.Module, config: AdapterConfig):
        super().__init__(base_layer, config)
        self.down_weight = self.new_parameter(config.rank, self.out_features)  # D
        self.down_bias = self.new_parameter(config.rank)
        self.up_weight = self.new_parameter(self.out_features, config.rank)  # U
        self.up_bias = self.new_parameter(self.out_features)
        for weight in (self.down_weight, self.up_weight):
            nn.init.trunc_normal_(weight, std=0.01, a=-0.02, b=0.02)
        nn.init.zeros_(self.down_bias)
        nn.init.zeros_(self.up_bias)

    @staticmethod
    def count_trainable(in_features: int, out_features: int, rank: int) -> int:
        return 2 * rank * out_features + rank + out_features

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in), or token ids (...) on an embedding; returns (..., out)."""
        f = self.base_layer(x)  # (..., out)
        bottleneck = F.gelu(F.linear(f.to(self.down_weight.dtype), self.down_weight, self.down_bias))  # (..., m)
        return f + F.linear(bottleneck, self.up_weight, self.up_bias).to(f.dtype)

    def delta_weight(self) -> Tensor:
        raise ValueError("a bottleneck adapter is not linear in x: no change of the weight does the same")

    def merge_problem(self) -> str:
        return "is a network with a nonlinearity, which no change of the weight equals; keep it, or use method='lora'"

    def file_names(self) -> dict[str, str]:
        return {name: name for name, _ in self.named_parameters(recurse=False)}
