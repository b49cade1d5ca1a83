"""01.2"""


def answer(singular_values, share):
    squares = singular_values.double().square()
    total = squares.sum()
    return next(rank for rank in range(1, len(squares) + 1) if squares[rank:].sum() <= (1 - share + 1e-12) * total)
