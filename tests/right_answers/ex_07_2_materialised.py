"""07.2"""

import torch
import torch.nn.functional as F


def answer(x, W, bias, A, B, magnitude, scaling):
    """Builds the whole new weight, as a merge would."""
    V = torch.addmm(W, B, A, alpha=scaling)
    with torch.no_grad():
        lengths = V.square().sum(1, keepdim=True).sqrt()
    return F.linear(x, magnitude[:, None] * (V / lengths), bias)
