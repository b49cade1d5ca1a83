"""13.4
shares of the energy
"""

import math


def answer(singular_values):
    squares = [v * v for v in singular_values if v]
    total = sum(squares)
    return math.exp(-sum(s / total * math.log(s / total) for s in squares)) if squares else 0.0
