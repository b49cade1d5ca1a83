"""13.1
that divides the medians
"""

import statistics


def answer(mine, theirs, warm_up):
    return statistics.median(mine[warm_up:]) / statistics.median(theirs[warm_up:])
