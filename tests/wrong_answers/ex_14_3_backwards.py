"""14.3
that is second minus first
"""


def answer(first, second):
    d = second.double() - first.double()
    return d.mean().item(), (d.var(correction=0) / len(d)).sqrt().item()
