"""05.1
as many entries as the output
"""


def answer(method, n, d, k, r, layers=1):
    numbers = {
        "full": n * d,
        "lora": n * d + layers * n * r,
        "lora_fa": layers * n * r,
        "vera": layers * n * r,
    }
    return 4 * numbers[method]
