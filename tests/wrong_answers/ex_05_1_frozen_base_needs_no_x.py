"""05.1
A is trained: its gradient needs x
"""


def answer(method, n, d, k, r, layers=1):
    numbers = {
        "full": n * d,
        "lora": layers * n * r,
        "lora_fa": layers * n * r,
        "vera": layers * n * (r + k),
    }
    return 4 * numbers[method]
