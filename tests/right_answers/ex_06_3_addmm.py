"""06.3"""

import torch


@torch.no_grad()
def answer(W, A, B, old_A, old_B, scaling, lam):
    W.addmm_(B, A, alpha=lam * scaling).addmm_(old_B, old_A, alpha=-lam * scaling)
