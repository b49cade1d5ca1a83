"""14.2
that is the number of the seed
"""


def answer(validation, test):
    return int(validation.argmax()), test.mean().item(), test.std().item()
