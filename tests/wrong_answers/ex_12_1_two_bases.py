"""12.1
base e and the power to base 10
"""

import math


def answer(low, high, u):
    return 10 ** (math.log(low) + u * (math.log(high) - math.log(low)))
