"""14.3
that is a variance
"""


def answer(first, second):
    d = first.double() - second.double()
    return d.mean().item(), (d.var(correction=0) / len(d)).item()
