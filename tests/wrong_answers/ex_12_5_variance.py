"""12.5
take the root
"""

def answer(right_a, right_b):
    apart = right_a - right_b
    return apart.mean().item(), apart.var().item() / len(apart)
