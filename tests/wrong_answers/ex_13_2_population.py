"""13.2
divides by n − 1
"""

import math
import statistics


def answer(a, b):
    found = [a[s] - b[s] for s in a if s in b]
    return statistics.fmean(found), statistics.pstdev(found) / math.sqrt(len(found))
