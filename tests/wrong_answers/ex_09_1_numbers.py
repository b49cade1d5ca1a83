"""09.1
those are numbers
"""


def answer(frozen, trained, base_bytes=4, optimizer="adamw"):
    return frozen + trained, trained, {"sgd": 0, "momentum": 1, "adamw": 2}[optimizer] * trained
