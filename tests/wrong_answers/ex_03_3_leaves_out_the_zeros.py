"""03.3
parts without an adapter need their zeros
"""

import torch


def answer(adapters, scaling):
    return torch.cat([scaling * (B @ A).T for A, B in adapters.values()], dim=1)
