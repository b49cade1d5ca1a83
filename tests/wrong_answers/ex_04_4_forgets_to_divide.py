"""04.4
added without dividing
"""

import torch.nn.functional as F


def answer(model, inputs, targets, pieces):
    for x, y in zip(inputs.chunk(pieces), targets.chunk(pieces), strict=True):
        F.cross_entropy(model(x), y).backward()
