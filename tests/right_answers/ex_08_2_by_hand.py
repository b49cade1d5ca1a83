"""08.2"""

import torch


def answer(batches):
    """Picks each target's log probability out of the log softmax."""
    surprises = []
    for logits, labels in batches:
        for row, target in zip(logits.log_softmax(-1), labels, strict=True):
            for position in range(1, len(target)):
                if target[position] != -100:
                    surprises.append(-row[position - 1, target[position]])
    return torch.stack(surprises).mean().exp()
