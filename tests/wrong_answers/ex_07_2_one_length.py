"""07.2
you divide by one length for the whole matrix
"""


def answer(x, W, bias, A, B, magnitude, scaling):
    V = W + scaling * B @ A
    return magnitude / V.norm().detach() * (x @ V.T) + bias
