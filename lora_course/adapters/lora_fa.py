"""LoRA-FA: LoRA with a frozen A (Zhang et al. 2023, arXiv:2308.03303).

    h = W x + b + s B A dropout(x),    A stays as it was drawn, only B is trained

The gradient of B needs A x, which has r entries a token; that of A would need x, which has d. So a layer keeps N r
numbers for its backward pass where LoRA keeps N d + N r, if W is frozen and dropout is 0 (a dropped x is a tensor of
its own, with a mask of N d entries). The plain gradient of B, s G A^T for the gradient G of W, is the one of the
paper's first version; `make_optimizer(model, lr, method="lora_fa")` projects it as the second does.
"""

from torch import nn

from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.lora import LoRA


class LoRAFA(LoRA):
    """LoRA whose A is a buffer: kept, saved and moved, but not trained. r out trainable.

    Raises ValueError for an embedding: there A starts at zero, and frozen it would stay so.
    """

    kinds = ("linear", "conv1d")

    def __init__(self, base_layer: nn.Module, config: AdapterConfig):
        super().__init__(base_layer, config)
        A = self.lora_A.detach()
        del self.lora_A
        self.register_buffer("lora_A", A)

    @staticmethod
    def count_trainable(in_features: int, out_features: int, rank: int) -> int:
        return rank * out_features

    def file_names(self) -> dict[str, str]:
        return {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}
