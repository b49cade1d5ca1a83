"""12.1
the lowest is missing
"""

def answer(low, high, u):
    return (high / low) ** u
