"""09.1
the trained weights are there too
"""


def answer(frozen, trained, base_bytes=4, optimizer="adamw"):
    return base_bytes * frozen, 4 * trained, {"sgd": 0, "momentum": 4, "adamw": 8}[optimizer] * trained
