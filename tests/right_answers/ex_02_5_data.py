"""02.5"""

from torch import nn


def answer(layer, A, B, scaling):
    if isinstance(layer, nn.Linear):
        layer.weight.data += scaling * (B @ A)
    else:
        layer.weight.data += scaling * (A.T @ B.T)
