"""02.1
you counted A only
"""


def answer(in_features, out_features, rank):
    return rank * in_features
