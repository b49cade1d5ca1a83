"""12.5
that is the spread of one sentence
"""

def answer(right_a, right_b):
    apart = right_a - right_b
    return apart.mean().item(), apart.std().item()
