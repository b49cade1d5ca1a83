"""10.2
entries are a block too
"""

def answer(x, block):
    flat = x.flatten()
    blocks = flat[: len(flat) // block * block].view(-1, block)
    absmax = blocks.abs().amax(dim=1)
    return blocks / absmax.clamp_min(1e-12).unsqueeze(1), absmax
