"""14.2
that is the error of the mean
"""


def answer(validation, test):
    return test[validation.argmax()].item(), test.mean().item(), test.std().item() / len(test) ** 0.5
