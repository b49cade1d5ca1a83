"""07.1
scaling enters twice
"""


def answer(grad_W, A, scaling, learning_rate):
    return -learning_rate * scaling * grad_W @ A.T @ A
