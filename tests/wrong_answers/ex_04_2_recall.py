"""04.2
that is recall alone
"""


def answer(logits, labels):
    p = logits.argmax(-1)
    tp = ((p == 1) & (labels == 1)).sum().item()
    fn = ((p == 0) & (labels == 1)).sum().item()
    return (p == labels).float().mean().item(), tp / max(1, tp + fn)
