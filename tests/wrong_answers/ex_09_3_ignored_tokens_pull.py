"""09.3
tokens whose label is -100 have no gradient
"""

import torch


def answer(hidden, weight, labels, chunk):
    n = (labels != -100).sum()
    loss, gradient = 0.0, torch.zeros_like(hidden)
    for start in range(0, len(hidden), chunk):
        rows = slice(start, start + chunk)
        counted = (labels[rows] != -100).to(hidden.dtype)[:, None]
        target = labels[rows].clamp(min=0)[:, None]
        z = hidden[rows] @ weight.T
        lse = z.logsumexp(-1, keepdim=True)
        loss = loss + (counted * (lse - z.gather(1, target))).sum() / n
        p = (z - lse).exp()
        p.scatter_add_(1, target, -counted)
        gradient[rows] = (p / n) @ weight
    return loss, gradient
