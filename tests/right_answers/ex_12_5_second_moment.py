"""12.5"""

def answer(right_a, right_b):
    """E[x^2] - E[x]^2, divided by n instead of n - 1: no difference that matters."""
    apart = (right_a - right_b).double()
    return apart.mean(), ((apart.square().mean() - apart.mean().square()) / len(apart)).sqrt()
