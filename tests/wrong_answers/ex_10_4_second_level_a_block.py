"""10.4
shared by absmax_block blocks
"""

def answer(bits, block, absmax_block=None):
    if absmax_block is None:
        return bits + 32 / block
    return bits + 8 / block + 32 / absmax_block
