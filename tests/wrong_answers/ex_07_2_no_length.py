"""07.2
you do not divide by the length
"""


def answer(x, W, bias, A, B, magnitude, scaling):
    return magnitude * (x @ W.T + scaling * (x @ A.T) @ B.T) + bias
