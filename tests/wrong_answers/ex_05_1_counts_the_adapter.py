"""05.1
A and B are parameters
"""


def answer(method, n, d, k, r, layers=1):
    numbers = {
        "full": n * d,
        "lora": n * d + layers * n * r + layers * r * (d + k),
        "lora_fa": layers * n * r,
        "vera": layers * n * (r + k),
    }
    return 4 * numbers[method]
