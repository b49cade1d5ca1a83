"""10.3
two codes share a byte
"""

import torch


def answer(scaled, table):
    return (scaled.unsqueeze(1) - table).abs().argmin(dim=1).to(torch.uint8)
