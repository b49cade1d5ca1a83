"""02.1
you counted B only
"""


def answer(in_features, out_features, rank):
    return rank * out_features
