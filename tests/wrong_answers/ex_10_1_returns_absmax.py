"""10.1
that is absmax, not the step
"""

import torch


def answer(W):
    absmax = W.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
    return torch.round(W / absmax * 127).to(torch.int8), absmax
