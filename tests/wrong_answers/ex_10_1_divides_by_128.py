"""10.1
it wraps around to -128
"""

import torch


def answer(W):
    step = W.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 128
    return torch.round(W / step).to(torch.int32).to(torch.int8), step
