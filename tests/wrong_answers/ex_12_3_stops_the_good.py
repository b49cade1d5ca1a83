"""12.3
a higher loss than the median stops
"""

import statistics


def answer(mine, others, step, startup=5):
    there = [other[step] for other in others if step in other]
    if len(there) < startup:
        return False
    return min(v for s, v in mine.items() if s <= step) < statistics.median(there)
