"""04.2
that is a percentage
"""


def answer(logits, labels):
    p = logits.argmax(-1)
    tp = ((p == 1) & (labels == 1)).sum().item()
    fp = ((p == 1) & (labels == 0)).sum().item()
    fn = ((p == 0) & (labels == 1)).sum().item()
    return 100 * (p == labels).float().mean().item(), 2 * tp / max(1, 2 * tp + fp + fn)
