"""10.1
nothing is saved
"""

import torch


def answer(W):
    step = W.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
    return torch.round(W / step), step
