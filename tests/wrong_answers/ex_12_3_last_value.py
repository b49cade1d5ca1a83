"""12.3
compare its best so far
"""

import statistics


def answer(mine, others, step, startup=5):
    there = [other[step] for other in others if step in other]
    if len(there) < startup:
        return False
    return mine[step] > statistics.median(there)
