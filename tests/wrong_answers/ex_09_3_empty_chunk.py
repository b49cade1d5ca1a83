"""09.3
0 / 0: add up the losses
"""

import torch
import torch.nn.functional as F


def answer(hidden, weight, labels, chunk):
    n = (labels != -100).sum()
    loss, gradients = 0.0, []
    for h, y in zip(hidden.split(chunk), labels.split(chunk), strict=True):
        h = h.detach().requires_grad_()
        part = F.cross_entropy(h @ weight.T, y) * (y != -100).sum() / n
        gradients.append(torch.autograd.grad(part, h)[0])
        loss = loss + part.detach()
    return loss, torch.cat(gradients)
