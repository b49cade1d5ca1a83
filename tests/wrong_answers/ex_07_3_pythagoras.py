"""07.3
the mixed term 2 s W . BA is missing
"""

import torch


def answer(W, A, B, scaling):
    squares = torch.linalg.vector_norm(W, dim=1).square()
    return (squares + scaling**2 * (B @ (A @ A.T) * B).sum(1)).sqrt()
