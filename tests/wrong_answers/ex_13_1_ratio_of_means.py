"""13.1
that divides the means
"""


def answer(mine, theirs, warm_up):
    return sum(mine[warm_up:]) / sum(theirs[warm_up:])
