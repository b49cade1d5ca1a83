"""06.3
lam is missing
"""

import torch


@torch.no_grad()
def answer(W, A, B, old_A, old_B, scaling, lam):
    W += scaling * (B @ A - old_B @ old_A)
