"""01.1
your function leaves its argument as it was
"""

import torch


def answer(matrix, rank):
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    S[rank:] = 0
    return matrix.copy_((U * S) @ Vh)
