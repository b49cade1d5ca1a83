"""06.3
change it in place
"""

import torch


@torch.no_grad()
def answer(W, A, B, old_A, old_B, scaling, lam):
    W = W + lam * scaling * (B @ A - old_B @ old_A)
    return W
