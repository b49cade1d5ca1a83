"""12.5"""

import math


def answer(right_a, right_b):
    apart = [float(a) - float(b) for a, b in zip(right_a, right_b, strict=True)]
    mean = sum(apart) / len(apart)
    return mean, math.sqrt(sum((x - mean) ** 2 for x in apart) / (len(apart) - 1) / len(apart))
