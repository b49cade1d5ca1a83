"""11.2
make new tensors
"""


def answer(weight, gradient, average, spread, beta1, beta2):
    now = (weight * gradient).abs()
    average.mul_(beta1).add_(now, alpha=1 - beta1)
    spread = beta2 * spread + (1 - beta2) * (now - average).abs()
    return average, spread, average * spread
