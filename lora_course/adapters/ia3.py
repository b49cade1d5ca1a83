"""(IA)^3: Infused Adapter by Inhibiting and Amplifying Inner Activations (Liu et al. 2022, arXiv:2205.05638).

    h = l * (W x + b)          l (out), starting at 1; * entry by entry

The paper has one vector for the keys, one for the values and one inside each feed-forward block, after the activation:
    softmax(Q (l_k * K)^T / sqrt(d_k)) (l_v * V)          (l_ff * act(W_1 x)) W_2
We scale what comes out of a layer, so target keys, values and W_1; that is the paper's l_ff where act is a ReLU and
l_ff positive, a neighbour of it otherwise. The bias is scaled along. There is no rank, alpha or dropout.
"""

from torch import Tensor, nn

from lora_course.adapters.base import Adapter, weight_view
from lora_course.adapters.config import AdapterConfig


class IA3(Adapter):
    """One trained factor for each output: out trainable. `rank` and `alpha` play no part.

    Raises ValueError for an embedding or dropout.
    """

    kinds = ("linear", "conv1d")
    has_dropout = False
    peft_type = "IA3"
    peft_constants = {"feedforward_modules": []}

    def __init__(self, base_layer: nn.Module, config: AdapterConfig):
        super().__init__(base_layer, config)
        self.ia3_l = self.new_parameter(self.out_features)
        nn.init.ones_(self.ia3_l)

    @staticmethod
    def count_trainable(in_features: int, out_features: int, rank: int) -> int:
        return out_features

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in); returns (..., out)."""
        h = self.base_layer(x)  # (..., out)
        return h if self.merged else (h * self.ia3_l).to(h.dtype)

    def delta_weight(self) -> Tensor:
        """(l - 1) * W, (out, in), of a layer that is not merged; the bias changes too."""
        return (self.ia3_l - 1).unsqueeze(1) * weight_view(self.base_layer)

    def merge_problem(self) -> str:
        if not self.ia3_l.all():
            return "has a factor of 0, which no unmerge could undo"
        return super().merge_problem()

    def fold(self) -> None:
        weight_view(self.base_layer).mul_(self.ia3_l.unsqueeze(1))
        if self.bias is not None:
            self.bias.mul_(self.ia3_l)

    def unfold(self) -> None:
        weight_view(self.base_layer).div_(self.ia3_l.unsqueeze(1))
        if self.bias is not None:
            self.bias.div_(self.ia3_l)

    def file_tensors(self) -> dict[str, Tensor]:
        return {"ia3_l": self.ia3_l.detach().unsqueeze(1)}  # (out, 1) in PEFT
