"""13.4
take one base for both
"""

import math


def answer(singular_values):
    total = sum(singular_values)
    return math.exp(-sum(v / total * math.log2(v / total) for v in singular_values if v)) if total else 0.0
