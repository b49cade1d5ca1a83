"""05.1
A x is kept once for each layer
"""


def answer(method, n, d, k, r, layers=1):
    numbers = {
        "full": n * d,
        "lora": n * d + n * r,
        "lora_fa": layers * n * r,
        "vera": layers * n * (r + k),
    }
    return 4 * numbers[method]
