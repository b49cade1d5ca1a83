"""14.2
that is the best on the test split
"""


def answer(validation, test):
    return test.max().item(), test.mean().item(), test.std().item()
