"""14.1
0 and most + 1 are never asked about
"""


def answer(bytes_of, budget, most):
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if bytes_of(middle) <= budget:
            low = middle + 1
        else:
            high = middle
    return low if bytes_of(low) <= budget else low - 1
