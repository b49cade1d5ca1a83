"""13.1
that is theirs over mine
"""

import statistics


def answer(mine, theirs, warm_up):
    return statistics.median(b / a for a, b in zip(mine[warm_up:], theirs[warm_up:], strict=True))
