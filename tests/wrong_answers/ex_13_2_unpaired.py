"""13.2
Subtract first, within each seed
"""

import math
import statistics


def answer(a, b):
    seeds = a.keys() & b.keys()
    mine, theirs = [a[s] for s in seeds], [b[s] for s in seeds]
    error = math.sqrt((statistics.variance(mine) + statistics.variance(theirs)) / len(seeds))
    return statistics.fmean(mine) - statistics.fmean(theirs), error
