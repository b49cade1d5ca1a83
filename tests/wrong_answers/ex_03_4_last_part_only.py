"""03.4
only the last part of each name was compared
"""


def answer(model, suffixes, rank):
    layers = {m for n, m in model.named_modules() if n.split(".")[-1] in suffixes}
    return sum(rank * sum(m.weight.shape) for m in layers)
