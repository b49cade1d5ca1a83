"""07.3
the mixed term counts twice
"""

import torch


def answer(W, A, B, scaling):
    C = W @ A.T
    squares = torch.linalg.vector_norm(W, dim=1).square()
    squares = squares + scaling * (C * B).sum(1) + scaling**2 * (B @ (A @ A.T) * B).sum(1)
    return squares.sqrt()
