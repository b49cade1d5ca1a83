"""01.3
not the largest that pays
"""


def answer(in_features, out_features):
    return min(in_features, out_features)
