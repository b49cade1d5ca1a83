"""13.4"""

import math


def answer(singular_values):
    """The product of p^-p."""
    total = sum(singular_values)
    return math.prod((v / total) ** -(v / total) for v in singular_values if v) if total else 0.0
