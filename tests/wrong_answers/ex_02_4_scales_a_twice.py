"""02.4
grad_A carries scaling twice
"""


def answer(grad_h, x, A, B, scaling):
    g = scaling * grad_h @ B
    return g @ A, scaling * g.T @ x, scaling * grad_h.T @ (x @ A.T)
