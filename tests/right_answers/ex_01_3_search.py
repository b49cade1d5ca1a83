"""01.3"""


def answer(in_features, out_features):
    rank = 0
    while (rank + 1) * (in_features + out_features) < in_features * out_features:
        rank += 1
    return rank
