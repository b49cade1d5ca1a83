"""12.3
not every other trial has a value
"""

import statistics


def answer(mine, others, step, startup=5):
    if len(others) < startup:
        return False
    return min(v for s, v in mine.items() if s <= step) > statistics.median(other[step] for other in others)
