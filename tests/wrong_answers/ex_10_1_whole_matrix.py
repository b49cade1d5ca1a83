"""10.1
one step a row
"""

import torch


def answer(W):
    absmax = W.abs().max()
    step = absmax / 127
    return torch.round(W / step).to(torch.int8), step
