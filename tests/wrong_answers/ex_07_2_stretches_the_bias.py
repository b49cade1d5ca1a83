"""07.2
the bias is stretched along
"""


def answer(x, W, bias, A, B, magnitude, scaling):
    V = W + scaling * B @ A
    return magnitude / V.norm(dim=1).detach() * (x @ V.T + bias)
