"""08.2
that is a mean over texts
"""

import math

import torch.nn.functional as F


def answer(batches):
    texts = [pair for logits, labels in batches for pair in zip(logits, labels, strict=True)]
    losses = [F.cross_entropy(x[:-1], y[1:]).item() for x, y in texts]
    return math.exp(sum(losses) / len(losses))
