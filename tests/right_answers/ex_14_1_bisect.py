"""14.1"""

import bisect


def answer(bytes_of, budget, most):
    """The standard library bisects a range that it sees through a key."""
    return bisect.bisect_right(range(1, most + 1), budget, key=bytes_of)
