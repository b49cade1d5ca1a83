"""07.3
W, which you were given
"""

import torch


def answer(W, A, B, scaling):
    return torch.linalg.vector_norm(W.addmm_(B, A, alpha=scaling), dim=1)
