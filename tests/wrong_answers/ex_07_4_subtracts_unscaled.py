"""07.4
the scaling is missing: what is left
"""

import torch


def answer(W, rank, scaling):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    root = (S[:rank] / scaling).sqrt()
    A, B = root[:, None] * Vh[:rank], U[:, :rank] * root
    return W - B @ A, A, B
