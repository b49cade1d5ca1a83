"""11.5
B A was built in full
"""

import torch


def answer(A, B, rank):
    U, S, Vh = torch.linalg.svd(B @ A, full_matrices=False)
    return S[:rank, None] * Vh[:rank], U[:, :rank]
