"""06.4
swap the two
"""

import torch


def answer(A, B, start_A, start_B, lam):
    return torch.cat([(1 + lam) * B, -lam * start_B], dim=1), torch.cat([A, start_A])
