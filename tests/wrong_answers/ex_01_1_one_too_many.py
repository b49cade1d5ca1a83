"""01.1
one too many
"""

import torch


def answer(matrix, rank):
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    kept = range(min(rank + 1, len(S)))
    return sum((S[i] * torch.outer(U[:, i], Vh[i]) for i in kept), torch.zeros_like(matrix))
