"""99.2
Shift is a module
"""


def answer(x):
    return x + 3
