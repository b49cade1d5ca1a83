"""14.2
take the first of them
"""


def answer(validation, test):
    last = len(validation) - 1 - validation.flip(0).argmax()
    return test[last].item(), test.mean().item(), test.std().item()
