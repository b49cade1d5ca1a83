"""12.5
divide by its root
"""

def answer(right_a, right_b):
    apart = right_a - right_b
    return apart.mean().item(), apart.std().item() / len(apart)
