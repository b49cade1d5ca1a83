"""11.3
that rounds to the nearest
"""


def answer(step, first, target, warmup, last):
    if step <= warmup:
        return first
    if step >= last:
        return target
    done = (step - warmup) / (last - warmup)
    return round((first - target) * (1 - done) ** 3 + target)
