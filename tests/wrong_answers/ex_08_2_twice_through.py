"""08.2
a generator is empty the second time
"""

import math

import torch.nn.functional as F


def answer(batches):
    nats = sum(F.cross_entropy(x[:, :-1].mT, y[:, 1:], reduction="sum").item() for x, y in batches)
    tokens = sum(int((y[:, 1:] != -100).sum()) for _, y in batches)
    return math.exp(nats / max(tokens, 1))
