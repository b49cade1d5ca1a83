"""08.2
masked targets are in the divisor
"""

import math

import torch.nn.functional as F


def answer(batches):
    nats, tokens = 0.0, 0
    for logits, labels in batches:
        nats += F.cross_entropy(logits[:, :-1].mT, labels[:, 1:], reduction="sum").item()
        tokens += labels[:, 1:].numel()
    return math.exp(nats / tokens)
