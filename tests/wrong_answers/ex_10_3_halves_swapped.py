"""10.3
the halves are swapped
"""

import torch


def answer(scaled, table):
    index = (scaled.unsqueeze(1) - table).abs().argmin(dim=1)
    return (index[::2] | index[1::2] << 4).to(torch.uint8)
