"""05.4
lambda_d belongs to each layer
"""


def answer(shapes, rank):
    trained = rank + sum(k for _, k in shapes)
    frozen = rank * (max(d for d, _ in shapes) + max(k for _, k in shapes))
    return trained, frozen
