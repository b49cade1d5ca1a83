"""14.3
the mean of n of them has 1/√n of it
"""


def answer(first, second):
    d = first.double() - second.double()
    return d.mean().item(), d.std(correction=0).item()
