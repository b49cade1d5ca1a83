"""14.1
half of the numbers are out
"""


def answer(bytes_of, budget, most):
    n = 0
    while n < most and bytes_of(n + 1) <= budget:
        n += 1
    return n
