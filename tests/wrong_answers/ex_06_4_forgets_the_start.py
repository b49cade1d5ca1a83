"""06.4
no room for the start
"""


def answer(A, B, start_A, start_B, lam):
    return A, (1 + lam) * B
