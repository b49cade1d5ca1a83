"""09.1
a frozen number has no gradient
"""


def answer(frozen, trained, base_bytes=4, optimizer="adamw"):
    weights = base_bytes * frozen + 4 * trained
    return weights, 4 * (frozen + trained), {"sgd": 0, "momentum": 4, "adamw": 8}[optimizer] * trained
