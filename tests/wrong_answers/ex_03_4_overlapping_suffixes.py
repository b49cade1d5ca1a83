"""03.4
a layer that two suffixes match is still one layer
"""


def answer(model, suffixes, rank):
    layers = [m for s in suffixes for n, m in model.named_modules() if f".{n}".endswith(f".{s}")]
    return sum(rank * sum(m.weight.shape) for m in layers)
