"""11.1"""

import torch


def answer(x, A, B, alpha, rank):
    """Zeroes the low numbers behind the rank instead of cutting the matrices."""
    mask = (torch.arange(len(A)) < rank).to(A.dtype)
    return torch.einsum("...i,ri,r,or->...o", x, A, mask, B) * alpha / rank
