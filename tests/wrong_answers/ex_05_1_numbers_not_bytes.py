"""05.1
a float32 number takes 4 bytes
"""


def answer(method, n, d, k, r, layers=1):
    numbers = {
        "full": n * d,
        "lora": n * d + layers * n * r,
        "lora_fa": layers * n * r,
        "vera": layers * n * (r + k),
    }
    return numbers[method]
