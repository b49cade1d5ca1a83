"""07.5
the halves do not match
"""

import torch


def answer(A, B, A0, B0, alpha):
    return torch.cat([A, A0]), torch.cat([-B0, B], dim=1), 2 * alpha
