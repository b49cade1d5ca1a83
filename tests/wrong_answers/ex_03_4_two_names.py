"""03.4
a layer that has two names was counted twice
"""


def answer(model, suffixes, rank):
    named = model.named_modules(remove_duplicate=False)
    layers = [m for n, m in named if any(f".{n}".endswith(f".{s}") for s in suffixes)]
    return sum(rank * sum(m.weight.shape) for m in layers)
