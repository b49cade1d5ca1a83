"""02.5
makes a new tensor
"""

from torch import nn


def answer(layer, A, B, scaling):
    delta = scaling * B @ A
    W = layer.weight.detach().clone()
    W = W + (delta if isinstance(layer, nn.Linear) else delta.T)
