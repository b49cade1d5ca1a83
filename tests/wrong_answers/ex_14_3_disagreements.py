"""14.3
wins and losses cancel
"""


def answer(first, second):
    d = (first != second).double()
    return d.mean().item(), (d.var(correction=0) / len(d)).sqrt().item()
