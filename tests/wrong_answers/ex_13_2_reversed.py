"""13.2
that is b − a
"""

import math
import statistics


def answer(a, b):
    found = [b[s] - a[s] for s in a if s in b]
    return statistics.fmean(found), statistics.stdev(found) / math.sqrt(len(found))
