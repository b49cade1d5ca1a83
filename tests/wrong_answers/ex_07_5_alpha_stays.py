"""07.5
alpha must double
"""

import torch


def answer(A, B, A0, B0, alpha):
    return torch.cat([A, A0]), torch.cat([B, -B0], dim=1), alpha
