"""01.2"""


def answer(singular_values, share):
    squares = [value**2 for value in singular_values.double().tolist()]
    captured = 0.0
    for rank, square in enumerate(squares, start=1):
        captured += square
        if captured >= (share - 1e-12) * sum(squares):
            return rank
    return len(squares)
