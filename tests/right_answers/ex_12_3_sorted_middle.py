"""12.3"""

def answer(mine, others, step, startup=5):
    there = sorted(other[step] for other in others if step in other)
    n = len(there)
    if n < startup:
        return False
    median = (there[(n - 1) // 2] + there[n // 2]) / 2
    return all(value > median for s, value in mine.items() if s <= step)
