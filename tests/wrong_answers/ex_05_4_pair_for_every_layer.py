"""05.4
a pair for every layer
"""


def answer(shapes, rank):
    trained = sum(rank + k for _, k in shapes)
    frozen = sum(rank * (d + k) for d, k in shapes)
    return trained, frozen
