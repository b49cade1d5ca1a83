"""10.1"""

import torch


def answer(W):
    """Row by row, with a step of 1 for a row of zeros."""
    codes, steps = torch.zeros(W.shape, dtype=torch.int8), torch.ones(len(W), 1)
    for i, row in enumerate(W):
        largest = max(abs(row.min().item()), abs(row.max().item()))
        if largest:
            steps[i] = largest / 127
            codes[i] = torch.round(row / steps[i]).to(torch.int8)
    return codes, steps
