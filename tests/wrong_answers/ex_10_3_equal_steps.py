"""10.3
those are equal steps
"""

import torch


def answer(scaled, table):
    index = torch.round((scaled + 1) * 7.5).long()
    return (index[::2] * 16 + index[1::2]).to(torch.uint8)
