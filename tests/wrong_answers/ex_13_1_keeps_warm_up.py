"""13.1
the rounds to warm up are still in
"""

import statistics


def answer(mine, theirs, warm_up):
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
