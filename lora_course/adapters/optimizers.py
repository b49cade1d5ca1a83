"""Optimizers for a model with adapters: which parameters, in which groups, at which learning rate."""

from __future__ import annotations

import torch
from torch import nn


def make_optimizer(
    model: nn.Module, lr: float, method: str = "adamw", weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """An optimizer over the trainable parameters of `model`. Biases and other 1-D parameters are not decayed.

    Raises ValueError if nothing is trainable, lr is not positive, or the method is unknown.
    """
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}")
    if method != "adamw":
        raise ValueError(f"unknown optimizer method {method!r}; there is 'adamw'")
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("no parameter is trainable: call inject(model, config) first, or unfreeze the model")
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr)
