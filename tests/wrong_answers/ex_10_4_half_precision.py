"""10.4
an absmax is a float32
"""

def answer(bits, block, absmax_block=None):
    if absmax_block is None:
        return bits + 16 / block
    return bits + 8 / block + 16 / (block * absmax_block)
