"""14.3"""

import math


def answer(first, second):
    """From the two counts of disagreements alone: d squared is 1 wherever d is not 0."""
    n = first.numel()
    won, lost = int((first & ~second).sum()), int((~first & second).sum())
    difference = (won - lost) / n
    return difference, math.sqrt(((won + lost) / n - difference**2) / n)
