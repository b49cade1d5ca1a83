"""06.4
the start is subtracted
"""

import torch


def answer(A, B, start_A, start_B, lam):
    return torch.cat([A, start_A]), torch.cat([(1 + lam) * B, lam * start_B], dim=1)
