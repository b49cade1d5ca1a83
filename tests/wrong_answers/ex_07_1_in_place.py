"""07.1
grad_W, which you were given
"""


def answer(grad_W, A, scaling, learning_rate):
    return grad_W.mul_(-learning_rate * scaling**2) @ A.T @ A
