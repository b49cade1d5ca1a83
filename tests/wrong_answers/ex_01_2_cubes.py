"""01.2
one that is twice as large
"""


def answer(singular_values, share):
    energy = singular_values.double() ** 3
    captured = energy.cumsum(0) / energy.sum()
    return min(int((captured < share - 1e-12).sum()) + 1, len(captured))
