"""11.3
that is a square
"""


def answer(step, first, target, warmup, last):
    if step <= warmup:
        return first
    if step >= last:
        return target
    done = (step - warmup) / (last - warmup)
    return int((first - target) * (1 - done) ** 2 + target)
