"""11.3
a fraction of a rank cannot be kept
"""


def answer(step, first, target, warmup, last):
    if step <= warmup:
        return first
    if step >= last:
        return target
    done = (step - warmup) / (last - warmup)
    return (first - target) * (1 - done) ** 3 + target
