"""13.2
paired by their place
"""

import math
import statistics


def answer(a, b):
    found = [x - y for x, y in zip(a.values(), b.values(), strict=False)]
    return statistics.fmean(found), statistics.stdev(found) / math.sqrt(len(found))
