"""14.1
that one is too large already
"""


def answer(bytes_of, budget, most):
    fits, too_large = 0, most + 1
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if bytes_of(middle) <= budget:
            fits = middle
        else:
            too_large = middle
    return too_large
