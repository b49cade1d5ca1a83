"""04.2
compare the two logits
"""


def answer(logits, labels):
    predicted = (logits[:, 1] > 0).long()
    tp = ((predicted == 1) & (labels == 1)).sum().item()
    wrong = (predicted != labels).sum().item()
    return (predicted == labels).float().mean().item(), 2 * tp / max(1, 2 * tp + wrong)
