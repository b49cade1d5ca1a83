"""10.3
neighbours share a byte
"""

import torch


def answer(scaled, table):
    first, second = (scaled.unsqueeze(1) - table).abs().argmin(dim=1).chunk(2)
    return (first * 16 + second).to(torch.uint8)
