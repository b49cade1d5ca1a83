"""02.5
add the transpose of B A
"""

import torch


def answer(layer, A, B, scaling):
    delta = scaling * B @ A
    with torch.no_grad():
        layer.weight += delta
