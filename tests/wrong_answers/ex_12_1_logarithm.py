"""12.1
that is the logarithm: exp brings it back
"""

import math


def answer(low, high, u):
    return math.log(low) + u * (math.log(high) - math.log(low))
