"""10.3
the next value below
"""

import torch


def answer(scaled, table):
    index = torch.bucketize(scaled, table, right=True) - 1
    return (index[::2] * 16 + index[1::2]).to(torch.uint8)
