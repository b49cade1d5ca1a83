"""11.2
take the absolute value of the difference
"""


def answer(weight, gradient, average, spread, beta1, beta2):
    now = (weight * gradient).abs()
    average = beta1 * average + (1 - beta1) * now
    spread = beta2 * spread + (1 - beta2) * (now - average)
    return average, spread, average * spread
