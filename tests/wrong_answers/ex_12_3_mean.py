"""12.3
take the median
"""

def answer(mine, others, step, startup=5):
    there = [other[step] for other in others if step in other]
    if len(there) < startup:
        return False
    return min(value for s, value in mine.items() if s <= step) > sum(there) / len(there)
