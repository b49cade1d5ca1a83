"""07.4"""

import torch


def answer(W, rank, scaling):
    """Builds the residual from the singular values that stay, and A from B by projecting W."""
    U, S, V = torch.svd(W)
    residual = U[:, rank:] @ torch.diag(S[rank:]) @ V[:, rank:].T
    B = U[:, :rank] @ torch.diag((S[:rank] / scaling) ** 0.5)
    A = torch.diag((S[:rank] * scaling) ** -0.5) @ U[:, :rank].T @ W
    return residual, A, B
