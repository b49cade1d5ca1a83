"""01.4
the scaling is missing
"""

import torch


def answer(delta, rank, scaling):
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    root = S[:rank].sqrt()
    return U[:, :rank] * root, root[:, None] * Vh[:rank]
