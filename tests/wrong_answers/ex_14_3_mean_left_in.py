"""14.3
that leaves the mean of d in
"""


def answer(first, second):
    d = first.double() - second.double()
    return d.mean().item(), (d.square().mean() / len(d)).sqrt().item()
