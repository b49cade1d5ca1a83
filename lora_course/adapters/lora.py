"""LoRA: Low-Rank Adaptation of Large Language Models (Hu et al. 2021, arXiv:2106.09685).

    h = W x + b + s B A dropout(x),    s = alpha / rank          (their equation 3)

W (out, in) is frozen. A (r, in) starts random and B (out, r) starts at zero, so that B A = 0: training begins exactly
at the pretrained model. B gets a gradient in the first step because A is not zero; A from the second on.
"""

import math

from torch import Tensor, nn

from lora_course.adapters import fused
from lora_course.adapters.base import Adapter, at_least_float32
from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.dropout import SharedDropout, dropped


class LoRA(Adapter):
    """A frozen layer plus a rank-r update: r (in + out) trainable parameters instead of in * out.

    A (r, in), B (out, r): values to begin with in place of random ones; copied.

    On an embedding the roles swap, as in the authors' code: A, whose columns are looked up, starts at zero and B
    random. Dropout does not apply there, since token ids have no entries to drop.
    """

    peft_type = "LORA"
    peft_fields = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"}
    peft_constants = {"bias": "none", "init_lora_weights": True}

    def __init__(self, base_layer: nn.Module, config: AdapterConfig, A: Tensor | None = None, B: Tensor | None = None):
        super().__init__(base_layer, config)
        self.dropout = SharedDropout(config.dropout) if config.dropout and self.kind != "embedding" else nn.Identity()
        if A is None:
            self.lora_A = self.new_parameter(config.rank, self.in_features)
            self.lora_B = self.new_parameter(self.out_features, config.rank)
            self.reset_parameters()
        else:
            self.lora_A, self.lora_B = nn.Parameter(A.detach().clone()), nn.Parameter(B.detach().clone())

    @staticmethod
    def count_trainable(in_features: int, out_features: int, rank: int) -> int:
        return rank * (in_features + out_features)

    def reset_parameters(self) -> None:
        if self.kind == "embedding":
            nn.init.zeros_(self.lora_A)
            nn.init.normal_(self.lora_B)
        else:
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
            nn.init.zeros_(self.lora_B)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in), or token ids (...) on an embedding; returns (..., out)."""
        if fused.usable(self, x, self.lora_A, self.lora_B):
            frozen = fused.frozen(self)
            return fused.LoRAStep.apply(x, dropped(self.dropout, x), *frozen, self.lora_A, self.lora_B, self.scaling)
        h = self.base_layer(x)  # (..., out)
        if self.merged:
            return h
        a = self.project_in(self.dropout(x), self.lora_A)  # (..., r)
        delta = nn.functional.linear(a, self.lora_B) * self.scaling  # (..., out)
        return h + delta.to(h.dtype)

    def delta_weight(self) -> Tensor:
        """s B A, (out, in). In half precision the product is taken in float32."""
        A, B = at_least_float32(self.lora_A, self.lora_B)
        return (B @ A) * self.scaling
