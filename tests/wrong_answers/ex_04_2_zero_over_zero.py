"""04.2
0 / 0
"""


def answer(logits, labels):
    p = logits.argmax(-1)
    tp = ((p == 1) & (labels == 1)).sum().item()
    fp = ((p == 1) & (labels == 0)).sum().item()
    fn = ((p == 0) & (labels == 1)).sum().item()
    return (p == labels).float().mean().item(), 2 * tp / (2 * tp + fp + fn) if 2 * tp + fp + fn else float("nan")
