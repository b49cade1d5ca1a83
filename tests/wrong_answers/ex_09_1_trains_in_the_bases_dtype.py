"""09.1
what is trained stays in float32
"""


def answer(frozen, trained, base_bytes=4, optimizer="adamw"):
    one = base_bytes * trained
    return base_bytes * frozen + one, one, {"sgd": 0, "momentum": 1, "adamw": 2}[optimizer] * one
