"""12.1"""

def answer(low, high, u):
    """A geometric mean, weighted by u."""
    return low ** (1 - u) * high**u
