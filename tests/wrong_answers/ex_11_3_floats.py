"""11.3
int() does not
"""


def answer(step, first, target, warmup, last):
    left = 1 - (step - warmup) / (last - warmup)
    return first if step <= warmup else target if step >= last else (first - target) * left**3 // 1 + target
