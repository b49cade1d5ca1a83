"""11.2
beta is upside down
"""


def answer(weight, gradient, average, spread, beta1, beta2):
    now = (weight * gradient).abs()
    average = (1 - beta1) * average + beta1 * now
    spread = beta2 * spread + (1 - beta2) * (now - average).abs()
    return average, spread, average * spread
