"""06.3
not its change in this step
"""

import torch


@torch.no_grad()
def answer(W, A, B, old_A, old_B, scaling, lam):
    W += lam * scaling * B @ A
