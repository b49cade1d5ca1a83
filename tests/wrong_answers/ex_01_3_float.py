"""01.3
a rank is a whole number
"""


def answer(in_features, out_features):
    return in_features * out_features / (in_features + out_features)
