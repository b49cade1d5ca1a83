"""07.2
the scaling is missing
"""


def answer(x, W, bias, A, B, magnitude, scaling):
    V = W + B @ A
    return magnitude / V.norm(dim=1).detach() * (x @ V.T) + bias
