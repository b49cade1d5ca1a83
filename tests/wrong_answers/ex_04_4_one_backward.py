"""04.4
losses that are added up
"""

import torch.nn.functional as F


def answer(model, inputs, targets, pieces):
    total = 0.0
    for x, y in zip(inputs.chunk(pieces), targets.chunk(pieces), strict=True):
        total = total + F.cross_entropy(model(x), y, reduction="sum") / len(inputs)
    total.backward()
