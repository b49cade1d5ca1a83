"""01.2
you took the share of the norm
"""


def answer(singular_values, share):
    energy = singular_values.double() ** 2
    captured = (energy.cumsum(0) / energy.sum()).sqrt()
    return min(int((captured < share - 1e-12).sum()) + 1, len(captured))
