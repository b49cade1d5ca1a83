"""11.2
take the absolute value: a product
"""


def answer(weight, gradient, average, spread, beta1, beta2):
    now = weight * gradient
    average = beta1 * average + (1 - beta1) * now
    spread = beta2 * spread + (1 - beta2) * (now - average).abs()
    return average, spread, average * spread
