"""07.2
the gradient flows through the length too
"""


def answer(x, W, bias, A, B, magnitude, scaling):
    V = W + scaling * B @ A
    return magnitude / V.norm(dim=1) * (x @ V.T) + bias
