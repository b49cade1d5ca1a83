"""13.4
it has no direction at all
"""

import math


def answer(singular_values):
    total = sum(singular_values)
    return math.exp(-sum(v / total * math.log(v / total) for v in singular_values if v))
