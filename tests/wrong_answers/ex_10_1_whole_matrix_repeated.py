"""10.1
one absmax for the whole matrix
"""

import torch


def answer(W):
    step = (W.abs().max() / 127).expand(len(W), 1)
    return torch.round(W / step).to(torch.int8), step
