"""11.2
compare with the new average
"""


def answer(weight, gradient, average, spread, beta1, beta2):
    now = (weight * gradient).abs()
    spread = beta2 * spread + (1 - beta2) * (now - average).abs()
    average = beta1 * average + (1 - beta1) * now
    return average, spread, average * spread
