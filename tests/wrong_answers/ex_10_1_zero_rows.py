"""10.1
0 / 0
"""

import torch


def answer(W):
    step = W.abs().amax(dim=1, keepdim=True) / 127
    return torch.round(W / step).to(torch.int8), step
