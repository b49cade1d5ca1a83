"""07.2
you divide by the lengths of W
"""


def answer(x, W, bias, A, B, magnitude, scaling):
    z = x @ W.T + scaling * (x @ A.T) @ B.T
    return magnitude / W.norm(dim=1) * z + bias
