"""00.1
that is the frozen share
"""


def answer(model):
    total = sum(p.numel() for p in model.parameters())
    return 100 * sum(p.numel() for p in model.parameters() if not p.requires_grad) / total
