"""12.5
subtract first, then
"""

def answer(right_a, right_b):
    error = ((right_a.double().var() + right_b.double().var()) / len(right_a)).sqrt()
    return (right_a.double().mean() - right_b.double().mean()).item(), error.item() * 1.00001
