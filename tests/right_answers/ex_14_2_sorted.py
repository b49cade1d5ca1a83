"""14.2"""

import statistics


def answer(validation, test):
    """In plain Python: the pair with the largest validation accuracy comes first."""
    pairs = sorted(zip(validation.tolist(), test.tolist(), strict=True), key=lambda pair: -pair[0])
    return [pairs[0][1], statistics.fmean(test.tolist()), statistics.stdev(test.tolist())]
