"""07.3
those are the squares
"""

import torch


def answer(W, A, B, scaling):
    C = W @ A.T
    squares = torch.linalg.vector_norm(W, dim=1).square()
    return squares + 2 * scaling * (C * B).sum(1) + scaling**2 * (B @ (A @ A.T) * B).sum(1)
