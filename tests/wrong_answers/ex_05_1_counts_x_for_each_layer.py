"""05.1
count its storage once
"""


def answer(method, n, d, k, r, layers=1):
    numbers = {
        "full": layers * n * d,
        "lora": layers * n * (d + r),
        "lora_fa": layers * n * r,
        "vera": layers * n * (r + k),
    }
    return 4 * numbers[method]
