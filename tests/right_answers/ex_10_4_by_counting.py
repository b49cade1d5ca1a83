"""10.4"""

def answer(bits, block, absmax_block=None):
    """Count the bits of as many weights as share everything, and divide."""
    weights = block * (absmax_block or 1)
    blocks = weights // block
    total = weights * bits + (32 * blocks if absmax_block is None else 8 * blocks + 32)
    return total / weights
