"""00.1
you counted tensors
"""


def answer(model):
    flags = [p.requires_grad for p in model.parameters()]
    return 100 * sum(flags) / len(flags)
