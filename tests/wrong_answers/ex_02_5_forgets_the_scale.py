"""02.5
the scale is missing
"""

import torch
from torch import nn


def answer(layer, A, B, scaling):
    delta = B @ A
    with torch.no_grad():
        layer.weight += delta if isinstance(layer, nn.Linear) else delta.T
