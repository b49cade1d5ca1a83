"""04.4
leave the gradients in p.grad
"""

import torch.nn.functional as F


def answer(model, inputs, targets, pieces):
    for x, y in zip(inputs.chunk(pieces), targets.chunk(pieces), strict=True):
        (F.cross_entropy(model(x), y) * len(x) / len(inputs)).backward()
    model.zero_grad()
