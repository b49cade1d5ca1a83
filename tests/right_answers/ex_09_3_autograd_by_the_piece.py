"""09.3"""

import torch
import torch.nn.functional as F


def answer(hidden, weight, labels, chunk):
    """Autograd, but for one chunk at a time."""
    n, loss, gradients = int((labels != -100).sum()), 0.0, []
    for h, y in zip(hidden.split(chunk), labels.split(chunk), strict=True):
        h = h.detach().requires_grad_()
        part = F.cross_entropy(F.linear(h, weight), y, reduction="sum", ignore_index=-100) / n
        gradients.append(torch.autograd.grad(part, h)[0])
        loss += part.item()
    return loss, torch.cat(gradients)
