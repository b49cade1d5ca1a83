"""07.3
another whole matrix
"""


def answer(W, A, B, scaling):
    C = W @ A.T
    squares = W.square().sum(1) + 2 * scaling * (C * B).sum(1) + scaling**2 * (B @ (A @ A.T) * B).sum(1)
    return squares.sqrt()
