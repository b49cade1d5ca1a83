"""07.1
that is full fine-tuning's step
"""


def answer(grad_W, A, scaling, learning_rate):
    return -learning_rate * grad_W
