"""11.3
progress is measured from step 0
"""


def answer(step, first, target, warmup, last):
    if step <= warmup:
        return first
    if step >= last:
        return target
    return int((first - target) * (1 - step / last) ** 3 + target)
