"""01.2
the rank is a count, one more
"""


def answer(singular_values, share):
    energy = singular_values.double() ** 2
    captured = energy.cumsum(0) / energy.sum()
    return min(int((captured < share - 1e-12).sum()), len(captured) - 1)
