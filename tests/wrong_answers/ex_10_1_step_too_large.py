"""10.1
row 3 has small weights
"""

import torch


def answer(W):
    step = (W.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-3)
    return torch.round(W / step).to(torch.int8), step
