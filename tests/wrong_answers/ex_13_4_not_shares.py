"""13.4
divide by their sum first
"""

import math


def answer(singular_values):
    return math.exp(-sum(v * math.log(v) for v in singular_values if v))
