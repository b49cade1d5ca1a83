"""02.1
is there a `return`?
"""


def answer(in_features, out_features, rank):
    rank * (in_features + out_features)
