"""01.3
right for square matrices only
"""


def answer(in_features, out_features):
    return min(in_features, out_features) // 2
