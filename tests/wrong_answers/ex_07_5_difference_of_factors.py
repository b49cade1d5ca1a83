"""07.5
stack A over A_0
"""


def answer(A, B, A0, B0, alpha):
    return A - A0, B - B0, alpha
