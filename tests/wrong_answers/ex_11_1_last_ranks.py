"""11.1
you took the last ranks
"""


def answer(x, A, B, alpha, rank):
    return alpha / rank * x @ A[-rank:].T @ B[:, -rank:].T
