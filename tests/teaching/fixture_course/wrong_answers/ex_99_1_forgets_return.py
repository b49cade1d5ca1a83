"""99.1
is there a `return`
"""


def answer(x):
    x * 2
