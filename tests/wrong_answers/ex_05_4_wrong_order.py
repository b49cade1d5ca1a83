"""05.4
in the other order
"""


def answer(shapes, rank):
    trained = sum(rank + k for _, k in shapes)
    frozen = rank * (max(d for d, _ in shapes) + max(k for _, k in shapes))
    return frozen, trained
