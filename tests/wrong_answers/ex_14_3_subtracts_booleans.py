"""14.3
Subtraction, the `-` operator
"""


def answer(first, second):
    d = first - second
    return d.mean().item(), (d.var(correction=0) / len(d)).sqrt().item()
