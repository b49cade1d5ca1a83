"""02.5
replaced by the change
"""

import torch
from torch import nn


def answer(layer, A, B, scaling):
    delta = scaling * B @ A
    with torch.no_grad():
        layer.weight.copy_(delta if isinstance(layer, nn.Linear) else delta.T)
