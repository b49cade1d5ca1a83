"""07.5
a minus sign is missing
"""

import torch


def answer(A, B, A0, B0, alpha):
    return torch.cat([A, -A0]), torch.cat([B, -B0], dim=1), 2 * alpha
