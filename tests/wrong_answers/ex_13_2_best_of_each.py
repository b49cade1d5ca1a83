"""13.2
that compares the best of each
"""

import math
import statistics


def answer(a, b):
    found = [a[s] - b[s] for s in a if s in b]
    return max(a.values()) - max(b.values()), statistics.stdev(found) / math.sqrt(len(found))
