"""07.5
the signs are the wrong way round
"""

import torch


def answer(A, B, A0, B0, alpha):
    return torch.cat([A0, A]), torch.cat([B0, -B], dim=1), 2 * alpha
