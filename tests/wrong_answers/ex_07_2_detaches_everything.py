"""07.2
only the length is held constant
"""


def answer(x, W, bias, A, B, magnitude, scaling):
    V = (W + scaling * B @ A).detach()
    return magnitude / V.norm(dim=1) * (x @ V.T) + bias
