"""05.4
may belong to two layers
"""


def answer(shapes, rank):
    trained = sum(rank + k for _, k in shapes)
    frozen = rank * max(d + k for d, k in shapes)
    return trained, frozen
