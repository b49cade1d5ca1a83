"""01.1
you left the singular values out
"""

import torch


def answer(matrix, rank):
    U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U[:, :rank] @ Vh[:rank]
