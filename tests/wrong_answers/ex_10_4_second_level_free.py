"""10.4
share one float32 more
"""

def answer(bits, block, absmax_block=None):
    return bits + (32 if absmax_block is None else 8) / block
