"""06.3
the scaling is missing
"""

import torch


@torch.no_grad()
def answer(W, A, B, old_A, old_B, scaling, lam):
    W += lam * (B @ A - old_B @ old_A)
