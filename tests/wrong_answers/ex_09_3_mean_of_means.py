"""09.3
a mean of the chunks' means
"""

import torch
import torch.nn.functional as F


def answer(hidden, weight, labels, chunk):
    hidden = hidden.detach().requires_grad_()
    pieces = zip(hidden.split(chunk), labels.split(chunk), strict=True)
    loss = torch.stack([F.cross_entropy(h @ weight.T, y) for h, y in pieces]).mean()
    return loss.detach(), torch.autograd.grad(loss, hidden)[0]
