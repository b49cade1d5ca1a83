"""10.4
you count both
"""

def answer(bits, block, absmax_block=None):
    total = bits + 32 / block
    if absmax_block is not None:
        total += 8 / block + 32 / (block * absmax_block)
    return total
