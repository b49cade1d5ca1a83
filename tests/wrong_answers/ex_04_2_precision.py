"""04.2
that is precision alone
"""


def answer(logits, labels):
    p = logits.argmax(-1)
    tp = ((p == 1) & (labels == 1)).sum().item()
    fp = ((p == 1) & (labels == 0)).sum().item()
    return (p == labels).float().mean().item(), tp / max(1, tp + fp)
