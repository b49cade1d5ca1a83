"""11.3
the cube is of what is *left*
"""


def answer(step, first, target, warmup, last):
    if step <= warmup:
        return first
    if step >= last:
        return target
    done = (step - warmup) / (last - warmup)
    return int((first - target) * (1 - done**3) + target)
