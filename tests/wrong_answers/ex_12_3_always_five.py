"""12.3
use `startup`
"""

import statistics


def answer(mine, others, step, startup=5):
    there = [other[step] for other in others if step in other]
    if len(there) < 5:
        return False
    return min(v for s, v in mine.items() if s <= step) > statistics.median(there)
