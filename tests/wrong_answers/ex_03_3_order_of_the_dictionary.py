"""03.3
the blocks follow the order of the dictionary
"""

import torch


def answer(adapters, scaling):
    blocks = [scaling * (B @ A).T for A, B in adapters.values()]
    missing = [torch.zeros_like(blocks[0])] * (3 - len(blocks))
    return torch.cat(blocks + missing, dim=1)
