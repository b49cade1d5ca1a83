"""03.4
Conv1D is no nn.Linear
"""

from torch import nn


def answer(model, suffixes, rank):
    layers = {
        m
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear) and any(f".{n}".endswith(f".{s}") for s in suffixes)
    }
    return sum(rank * (m.in_features + m.out_features) for m in layers)
