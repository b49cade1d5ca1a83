"""10.4
the absmax is missing
"""

def answer(bits, block, absmax_block=None):
    return float(bits)
