"""07.3
another whole matrix
"""


def answer(W, A, B, scaling):
    return (W + scaling * B @ A).norm(dim=1)
