"""10.3
the next value above
"""

import torch


def answer(scaled, table):
    index = torch.bucketize(scaled, table)
    return (index[::2] * 16 + index[1::2]).to(torch.uint8)
