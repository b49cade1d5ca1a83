"""06.4
side by side
"""

import torch


def answer(A, B, start_A, start_B, lam):
    return torch.cat([A, start_A]), torch.cat([(1 + lam) * B, -lam * start_B])
