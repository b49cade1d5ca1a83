"""04.4
only the last piece is left
"""

import torch.nn.functional as F


def answer(model, inputs, targets, pieces):
    for x, y in zip(inputs.chunk(pieces), targets.chunk(pieces), strict=True):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
