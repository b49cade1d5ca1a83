"""12.1
that is uniform
"""

def answer(low, high, u):
    return low + u * (high - low)
