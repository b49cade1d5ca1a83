"""09.1
other optimizers keep less
"""


def answer(frozen, trained, base_bytes=4, optimizer="adamw"):
    return base_bytes * frozen + 4 * trained, 4 * trained, 8 * trained
