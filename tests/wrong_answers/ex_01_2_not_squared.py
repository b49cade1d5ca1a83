"""01.2
you added the singular values themselves
"""


def answer(singular_values, share):
    captured = singular_values.double().cumsum(0) / singular_values.double().sum()
    return min(int((captured < share - 1e-12).sum()) + 1, len(captured))
