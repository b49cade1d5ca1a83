"""07.4
those are the smallest singular values
"""

import torch


def answer(W, rank, scaling):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    root = (S[-rank:] / scaling).sqrt()
    A, B = root[:, None] * Vh[-rank:], U[:, -rank:] * root
    return W - scaling * B @ A, A, B
