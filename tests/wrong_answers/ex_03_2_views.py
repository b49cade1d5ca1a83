"""03.2
chunk gives views of the same memory
"""

from torch import nn


def answer(attention):
    biases = [None] * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
    layers = []
    for weight, bias in zip(attention.in_proj_weight.chunk(3), biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        layer.weight = nn.Parameter(weight.detach())
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach())
        layers.append(layer)
    return tuple(layers)
