"""01.3
you rounded up
"""

import math


def answer(in_features, out_features):
    return math.ceil(in_features * out_features / (in_features + out_features))
