"""02.5
still holds the old one
"""

from torch import nn


def answer(layer, A, B, scaling):
    delta = scaling * B @ A
    delta = delta if isinstance(layer, nn.Linear) else delta.T
    layer.weight = nn.Parameter(layer.weight.detach() + delta)
