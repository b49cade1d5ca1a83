"""04.4"""

import torch.nn.functional as F


def answer(model, inputs, targets, pieces):
    """The mean of each piece, weighted by its size."""
    for x, y in zip(inputs.chunk(pieces), targets.chunk(pieces), strict=True):
        (F.cross_entropy(model(x), y) * len(x) / len(inputs)).backward()
