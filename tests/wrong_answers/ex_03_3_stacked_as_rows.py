"""03.3
you transposed each block and stacked them as rows
"""

import torch


def answer(adapters, scaling):
    d = next(iter(adapters.values()))[0].shape[1]
    zero = torch.zeros(d, d, dtype=torch.float64)
    return torch.cat([scaling * (adapters[p][1] @ adapters[p][0]).T if p in adapters else zero for p in "qkv"])
