"""07.1
that is B after the step
"""


def answer(grad_W, A, scaling, learning_rate):
    return -learning_rate * scaling * grad_W @ A.T
