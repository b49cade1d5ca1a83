"""11.3"""

import math


def answer(step, first, target, warmup, last):
    """One formula, with the way that is left kept between 0 and 1; whole numbers until the division."""
    left = min(max(last - step, 0), last - warmup)
    return target + math.floor((first - target) * left**3 / (last - warmup) ** 3)
