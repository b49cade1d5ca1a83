"""03.2
you took every third row
"""

import torch
from torch import nn


def answer(attention):
    layers = [nn.Linear(attention.embed_dim, attention.embed_dim) for _ in range(3)]
    with torch.no_grad():
        for i, layer in enumerate(layers):
            layer.weight.copy_(attention.in_proj_weight[i::3])
    return layers
