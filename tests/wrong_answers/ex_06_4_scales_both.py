"""06.4
not into both
"""

import torch


def answer(A, B, start_A, start_B, lam):
    return torch.cat([(1 + lam) * A, lam * start_A]), torch.cat([(1 + lam) * B, -lam * start_B], dim=1)
