"""05.4
not its input
"""


def answer(shapes, rank):
    trained = sum(rank + d for d, _ in shapes)
    frozen = rank * (max(d for d, _ in shapes) + max(k for _, k in shapes))
    return trained, frozen
