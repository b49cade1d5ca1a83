"""08.2
masked targets count as token 0
"""

import math

import torch.nn.functional as F


def answer(batches):
    nats, tokens = 0.0, 0
    for logits, labels in batches:
        targets = labels[:, 1:].clamp(min=0)
        nats += F.cross_entropy(logits[:, :-1].mT, targets, reduction="sum").item()
        tokens += targets.numel()
    return math.exp(nats / tokens)
