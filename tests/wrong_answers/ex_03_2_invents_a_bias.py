"""03.2
nn.Linear makes a random bias
"""

import torch
from torch import nn


def answer(attention):
    d = attention.embed_dim
    layers = [nn.Linear(d, d, dtype=attention.in_proj_weight.dtype) for _ in range(3)]
    with torch.no_grad():
        for i, layer in enumerate(layers):
            layer.weight.copy_(attention.in_proj_weight[i * d : (i + 1) * d])
            if attention.in_proj_bias is not None:
                layer.bias.copy_(attention.in_proj_bias[i * d : (i + 1) * d])
    return layers
