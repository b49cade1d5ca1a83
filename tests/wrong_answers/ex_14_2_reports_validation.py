"""14.2
that is its validation accuracy
"""


def answer(validation, test):
    return validation.max().item(), test.mean().item(), test.std().item()
