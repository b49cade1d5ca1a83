"""08.2
nothing is shifted
"""

import math

import torch.nn.functional as F


def answer(batches):
    nats, tokens = 0.0, 0
    for logits, labels in batches:
        nats += F.cross_entropy(logits.mT, labels, reduction="sum").item()
        tokens += int((labels != -100).sum())
    return math.exp(nats / tokens)
