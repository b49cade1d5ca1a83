"""01.3
'fewer' is strict
"""


def answer(in_features, out_features):
    return in_features * out_features // (in_features + out_features)
