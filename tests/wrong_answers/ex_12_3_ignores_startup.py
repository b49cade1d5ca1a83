"""12.3
fewer than `startup` others
"""

import statistics


def answer(mine, others, step, startup=5):
    there = [other[step] for other in others if step in other]
    return bool(there) and min(v for s, v in mine.items() if s <= step) > statistics.median(there)
