"""09.3
labels of -100 are no targets: divide by the number of the others
"""

import torch


def answer(hidden, weight, labels, chunk):
    n = len(labels)
    loss, gradient = 0.0, torch.zeros_like(hidden)
    for start in range(0, len(hidden), chunk):
        rows = slice(start, start + chunk)
        counted = (labels[rows] != -100).to(hidden.dtype)[:, None]
        target = labels[rows].clamp(min=0)[:, None]
        z = hidden[rows] @ weight.T
        lse = z.logsumexp(-1, keepdim=True)
        loss = loss + (counted * (lse - z.gather(1, target))).sum() / n
        p = (z - lse).exp()
        p.scatter_add_(1, target, -torch.ones_like(lse))
        gradient[rows] = (counted * p / n) @ weight
    return loss, gradient
