"""08.2
that is the mean of the batches' losses
"""

import math

import torch.nn.functional as F


def answer(batches):
    losses = [F.cross_entropy(logits[:, :-1].mT, labels[:, 1:]).item() for logits, labels in batches]
    return math.exp(sum(losses) / len(losses))
