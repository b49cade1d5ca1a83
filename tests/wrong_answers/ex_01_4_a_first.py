"""01.4
you returned A, B
"""

import torch


def answer(delta, rank, scaling):
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    root = (S[:rank] / scaling).sqrt()
    return root[:, None] * Vh[:rank], U[:, :rank] * root
