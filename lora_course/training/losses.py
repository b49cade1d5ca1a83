"""What a training step minimises: the model's own loss, or that loss with R-Drop's demand for agreement."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]


def model_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The loss that the model itself computes from `labels`, a mean over its targets."""
    return model(**batch).loss


def r_drop(alpha: float) -> Loss:
    """R-Drop for classifiers (Liang et al. 2021, arXiv:2106.14448, equation 4, halved).

        1/2 (CE(p1) + CE(p2)) + alpha/4 (KL(p1 || p2) + KL(p2 || p1))

    Every example goes through the model twice. Dropout makes the answers p1 and p2 differ; the second term asks them to
    agree. Half of the paper's loss, so that its size compares with a plain cross entropy. Costs two passes a step and
    regularises strongly. Raises ValueError if alpha is negative.
    """
    if alpha < 0:
        raise ValueError(f"alpha must be 0 or more, got {alpha}")

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        twice = {name: tensor.repeat(2, *[1] * (tensor.dim() - 1)) for name, tensor in batch.items()}
        labels = twice.pop("labels")  # (2B,)
        log_p = F.log_softmax(model(**twice).logits, dim=-1)  # (2B, classes)
        first, second = log_p.chunk(2)
        apart = F.kl_div(first, second, log_target=True, reduction="batchmean")
        apart = apart + F.kl_div(second, first, log_target=True, reduction="batchmean")
        return F.nll_loss(log_p, labels) + alpha / 4 * apart

    loss.__name__ = f"r_drop({alpha:g})"  # what a checkpoint calls it
    return loss
