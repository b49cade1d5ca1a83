"""10.1
round first
"""

import torch


def answer(W):
    step = W.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
    return (W / step).to(torch.int8), step
