"""07.3"""

import torch


def answer(W, A, B, scaling):
    """One row of V at a time."""
    return torch.stack([(row + scaling * b @ A).norm() for row, b in zip(W, B, strict=True)])
