"""14.3
that forgets the pairs
"""


def answer(first, second):
    p, q = first.double().mean(), second.double().mean()
    return (p - q).item(), ((p * (1 - p) + q * (1 - q)) / len(first)).sqrt().item()
