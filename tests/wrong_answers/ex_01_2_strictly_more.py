"""01.2
a rank that holds exactly this share is enough
"""


def answer(singular_values, share):
    energy = singular_values.double() ** 2
    captured = energy.cumsum(0) / energy.sum()
    return min(int((captured <= share + 1e-12).sum()) + 1, len(captured))
