"""10.2
is invalid for input of size
"""

def answer(x, block):
    blocks = x.reshape(-1, block)
    absmax = blocks.abs().amax(dim=1)
    return blocks / absmax.clamp_min(1e-12).unsqueeze(1), absmax
