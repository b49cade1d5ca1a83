"""04.4
weight each loss by its number of examples
"""

import torch.nn.functional as F


def answer(model, inputs, targets, pieces):
    for x, y in zip(inputs.chunk(pieces), targets.chunk(pieces), strict=True):
        (F.cross_entropy(model(x), y) / pieces).backward()
