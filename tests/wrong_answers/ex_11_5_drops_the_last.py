"""11.5
you cut off the last ranks
"""


def answer(A, B, rank):
    return A[:rank], B[:, :rank]
