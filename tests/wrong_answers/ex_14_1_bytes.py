"""14.1
that is a size in bytes
"""


def answer(bytes_of, budget, most):
    fits, too_large, size = 0, most + 1, 0
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if bytes_of(middle) <= budget:
            fits, size = middle, bytes_of(middle)
        else:
            too_large = middle
    return size
