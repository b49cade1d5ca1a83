"""02.4
it is transposed
"""


def answer(grad_h, x, A, B, scaling):
    g = scaling * grad_h @ B
    return g @ A, g.T @ x, scaling * (x @ A.T).T @ grad_h
