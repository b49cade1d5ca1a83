"""13.2
leave out a seed that only one has
"""

import math
import statistics


def answer(a, b):
    found = [a[s] - b[s] for s in a if s in b]
    mean = statistics.fmean(a.values()) - statistics.fmean(b.values())
    return mean, statistics.stdev(found) / math.sqrt(len(found))
