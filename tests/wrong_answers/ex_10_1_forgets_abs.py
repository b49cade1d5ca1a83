"""10.1
negative weights overflow
"""

import torch


def answer(W):
    largest = W.amax(dim=1, keepdim=True)
    step = torch.where(largest > 0, largest, 127) / 127
    return torch.round(W / step).to(torch.int32).to(torch.int8), step
