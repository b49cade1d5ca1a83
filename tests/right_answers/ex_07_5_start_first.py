"""07.5"""

import torch


def answer(A, B, A0, B0, alpha):
    """The start first, and the minus on its A."""
    r = len(A)
    big_A = torch.zeros(2 * r, A.shape[1], dtype=A.dtype)
    big_B = torch.zeros(B.shape[0], 2 * r, dtype=B.dtype)
    big_A[:r], big_A[r:] = -A0, A
    big_B[:, :r], big_B[:, r:] = B0, B
    return big_A, big_B, alpha / r * (2 * r)
