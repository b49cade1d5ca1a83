"""12.5
that is b - a
"""

def answer(right_a, right_b):
    apart = right_b - right_a
    return apart.mean().item(), apart.std().item() / len(apart) ** 0.5
