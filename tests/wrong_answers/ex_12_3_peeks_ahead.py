"""12.3
what was reported after `step` does not count yet
"""

import statistics


def answer(mine, others, step, startup=5):
    there = [other[step] for other in others if step in other]
    if len(there) < startup:
        return False
    return min(mine.values()) > statistics.median(there)
