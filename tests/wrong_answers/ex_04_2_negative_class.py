"""04.2
F1 of the negative class
"""


def answer(logits, labels):
    p = logits.argmax(-1)
    tp = ((p == 1) & (labels == 1)).sum().item()
    fp = ((p == 1) & (labels == 0)).sum().item()
    fn = ((p == 0) & (labels == 1)).sum().item()
    tn = len(p) - tp - fp - fn
    return (p == labels).float().mean().item(), 2 * tn / max(1, 2 * tn + fp + fn)
