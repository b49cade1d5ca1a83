"""09.1
Adam keeps two numbers for each trained one
"""


def answer(frozen, trained, base_bytes=4, optimizer="adamw"):
    return base_bytes * frozen + 4 * trained, 4 * trained, 0 if optimizer == "sgd" else 4 * trained
