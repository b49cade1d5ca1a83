"""01.2
a tensor prints like a number
"""


def answer(singular_values, share):
    energy = singular_values.double() ** 2
    captured = energy.cumsum(0) / energy.sum()
    return ((captured < share - 1e-12).sum() + 1).clamp(max=len(captured))
