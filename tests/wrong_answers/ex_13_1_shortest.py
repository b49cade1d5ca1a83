"""13.1
that divides the shortest times
"""


def answer(mine, theirs, warm_up):
    return min(mine[warm_up:]) / min(theirs[warm_up:])
