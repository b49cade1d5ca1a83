"""06.4
only the drift knows it
"""

import torch


def answer(A, B, start_A, start_B, lam):
    return torch.cat([A, start_A]), (1 + lam) * torch.cat([B, -start_B], dim=1)
