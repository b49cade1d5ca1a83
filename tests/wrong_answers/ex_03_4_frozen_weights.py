"""03.4
you counted the frozen weights
"""


def answer(model, suffixes, rank):
    layers = {m for n, m in model.named_modules() if any(f".{n}".endswith(f".{s}") for s in suffixes)}
    return sum(m.weight.numel() for m in layers)
