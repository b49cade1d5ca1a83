"""13.2
that is the standard deviation
"""

import statistics


def answer(a, b):
    found = [a[s] - b[s] for s in a if s in b]
    return statistics.fmean(found), statistics.stdev(found)
