"""03.4
names that merely end in the same letters
"""


def answer(model, suffixes, rank):
    layers = {m for n, m in model.named_modules() if any(n.endswith(s) for s in suffixes)}
    return sum(rank * sum(m.weight.shape) for m in layers)
