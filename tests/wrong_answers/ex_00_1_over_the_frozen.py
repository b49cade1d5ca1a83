"""00.1
you divided by the frozen parameters
"""


def answer(model):
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return 100 * trained / max(1, frozen)
