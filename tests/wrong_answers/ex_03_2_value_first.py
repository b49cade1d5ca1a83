"""03.2
the order is q, k, v
"""

import torch
from torch import nn


def answer(attention):
    layers = [nn.Linear(attention.embed_dim, attention.embed_dim) for _ in range(3)]
    with torch.no_grad():
        for layer, weight in zip(layers, reversed(attention.in_proj_weight.chunk(3)), strict=True):
            layer.weight.copy_(weight)
    return layers
