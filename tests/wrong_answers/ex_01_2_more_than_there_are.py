"""01.2
never return more than there are
"""


def answer(singular_values, share):
    energy = singular_values.double() ** 2
    captured = energy.cumsum(0) / energy.sum()
    return int((captured < share + 1e-12 * (share == 1)).sum()) + 1
