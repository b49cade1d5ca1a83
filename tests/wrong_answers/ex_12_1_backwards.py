"""12.1
runs from the highest down
"""

def answer(low, high, u):
    return high * (low / high) ** u
