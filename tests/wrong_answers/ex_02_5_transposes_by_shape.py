"""02.5
With a square weight nothing
"""

import torch


def answer(layer, A, B, scaling):
    delta = scaling * B @ A
    if delta.shape != layer.weight.shape:
        delta = delta.T
    with torch.no_grad():
        layer.weight += delta
