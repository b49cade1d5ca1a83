"""04.2
the plain mean of precision and recall
"""


def answer(logits, labels):
    p = logits.argmax(-1)
    tp = ((p == 1) & (labels == 1)).sum().item()
    fp = ((p == 1) & (labels == 0)).sum().item()
    fn = ((p == 0) & (labels == 1)).sum().item()
    return (p == labels).float().mean().item(), (tp / max(1, tp + fp) + tp / max(1, tp + fn)) / 2
