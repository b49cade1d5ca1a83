"""13.1
that is the mean of the ratios
"""


def answer(mine, theirs, warm_up):
    found = [a / b for a, b in zip(mine, theirs, strict=True)][warm_up:]
    return sum(found) / len(found)
