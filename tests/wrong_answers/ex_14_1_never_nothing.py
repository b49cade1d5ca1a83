"""14.1
if nothing fits, the answer is 0
"""


def answer(bytes_of, budget, most):
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        if bytes_of(middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low
