"""07.1
it has the wrong sign
"""


def answer(grad_W, A, scaling, learning_rate):
    B = learning_rate * scaling * grad_W @ A.T
    return scaling * B @ A
