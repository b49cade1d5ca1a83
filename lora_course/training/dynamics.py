"""A callback of `fit` that looks into the adapters while they train: one LayerRow for each layer, every so many steps.

    gradient norms   of A and of B, as they were before clipping
    singular values  of the change of the weight, from which the history has its norm and effective rank
For A and B the change is never built: two QR decompositions leave a matrix of r x r.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lora_course.adapters.base import Adapter
from lora_course.adapters.inject import adapter_config, adapters
from lora_course.adapters.resize import singular_values
from lora_course.training.history import LayerRow, StepRow

PRODUCTS = ("lora", "rslora", "lora_fa")  # whose change is s B A and nothing else
NOTHING = 1e-6  # of the largest singular value: below it is rounding


class LayerRecorder:
    """fit(…, callbacks=[LayerRecorder(model, every=5)]) fills `history.layers`.

    every: steps from one record to the next; the first step is always recorded.
    A step on record costs the decompositions: some milliseconds a layer for LoRA, tens for what has no small factors.
    Where a RankController is among the callbacks too, it comes after this one: it replaces A and B.
    Raises ValueError if the model has no adapters, or one whose change is none of the weight (houlsby).
    """

    def __init__(self, model: nn.Module, every: int = 10):
        adapter_config(model)
        self.model, self.every = model, every
        name, layer = next(iter(adapters(model).items()))
        try:
            change_spectrum(layer)
        except ValueError as error:
            raise ValueError(f"nothing to record of {name!r}: {error}") from None

    def __call__(self, row: StepRow) -> list[LayerRow] | None:
        if (row.step - 1) % self.every:
            return None
        trained = [p for p in self.model.parameters() if p.grad is not None]
        after = torch.stack([p.grad.norm().cpu() for p in trained]).norm().item()
        unclipped = row.grad_norm / after if after else 1.0
        return [
            LayerRow(
                row.step,
                name,
                unclipped * _gradient(layer, "lora_A"),
                unclipped * _gradient(layer, "lora_B"),
                change_spectrum(layer).tolist(),
            )
            for name, layer in adapters(self.model).items()
        ]


@torch.no_grad()
def change_spectrum(layer: Adapter) -> Tensor:
    """Singular values of the adapter's change of the weight, largest first, without those that are 0 but for rounding.

    Returns (n,) float64 on the CPU, n from 0 to min(in, out).
    """
    if layer.config.method in PRODUCTS:
        values = singular_values(layer)
    else:
        values = torch.linalg.svdvals(layer.delta_weight().to("cpu", torch.float64))
    return values[values > NOTHING * values.max()]


def _gradient(layer: Adapter, name: str) -> float:
    gradient = getattr(getattr(layer, name, None), "grad", None)
    return gradient.norm().item() if gradient is not None else 0.0
