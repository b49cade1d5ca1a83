"""14.1"""


def answer(bytes_of, budget, most):
    """Builds n from its highest bit down."""
    n = 0
    for bit in reversed(range(most.bit_length())):
        larger = n + (1 << bit)
        if larger <= most and bytes_of(larger) <= budget:
            n = larger
    return n
