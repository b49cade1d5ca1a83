"""14.1
what needs exactly the budget fits
"""


def answer(bytes_of, budget, most):
    fits, too_large = 0, most + 1
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if bytes_of(middle) < budget:
            fits = middle
        else:
            too_large = middle
    return fits
