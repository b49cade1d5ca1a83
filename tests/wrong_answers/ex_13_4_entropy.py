"""13.4
exp of it counts directions
"""

import math


def answer(singular_values):
    total = sum(singular_values)
    return -sum(v / total * math.log(v / total) for v in singular_values if v) if total else 0.0
