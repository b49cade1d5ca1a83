"""10.3"""

import torch


def answer(scaled, table):
    """How many of the fifteen midpoints lie below? Then a view as pairs, times (16, 1)."""
    index = torch.bucketize(scaled, (table[1:] + table[:-1]) / 2)
    return (index.view(-1, 2) * torch.tensor([16, 1])).sum(dim=1).to(torch.uint8)
