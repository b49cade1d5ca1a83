"""13.4
how large they are must matter
"""


def answer(singular_values):
    return float(sum(v > 0 for v in singular_values))
