"""99.1
you squared it
"""


def answer(x):
    return x**2
