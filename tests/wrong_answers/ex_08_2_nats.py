"""08.2
exp is missing
"""

import torch.nn.functional as F


def answer(batches):
    nats, tokens = 0.0, 0
    for logits, labels in batches:
        nats += F.cross_entropy(logits[:, :-1].mT, labels[:, 1:], reduction="sum").item()
        tokens += int((labels[:, 1:] != -100).sum())
    return nats / tokens
