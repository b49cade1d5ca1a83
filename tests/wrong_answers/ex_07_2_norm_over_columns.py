"""07.2
you divide by the lengths of the columns
"""


def answer(x, W, bias, A, B, magnitude, scaling):
    V = W + scaling * B @ A
    direction = V / V.norm(dim=0).detach()
    return x @ (magnitude.unsqueeze(1) * direction).T + bias
