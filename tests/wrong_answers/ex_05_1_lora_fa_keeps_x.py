"""05.1
LoRA-FA does not train A
"""


def answer(method, n, d, k, r, layers=1):
    numbers = {
        "full": n * d,
        "lora": n * d + layers * n * r,
        "lora_fa": n * d + layers * n * r,
        "vera": layers * n * (r + k),
    }
    return 4 * numbers[method]
