"""13.2"""

import torch


def answer(a, b):
    d = torch.tensor([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())], dtype=torch.float64)
    return d.mean(), d.std() / len(d) ** 0.5
