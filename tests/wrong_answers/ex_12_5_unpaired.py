"""12.5
both had the same, so subtract first
"""

import math


def answer(right_a, right_b):
    p, q, n = right_a.double().mean().item(), right_b.double().mean().item(), len(right_a)
    return p - q, math.sqrt((p * (1 - p) + q * (1 - q)) / n)
