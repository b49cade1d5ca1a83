"""11.1
all ranks are used
"""


def answer(x, A, B, alpha, rank):
    return alpha / len(A) * x @ A.T @ B.T
