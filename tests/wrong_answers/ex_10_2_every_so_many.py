"""10.2
not every so many-th entry
"""

import torch.nn.functional as F


def answer(x, block):
    blocks = F.pad(x.flatten(), (0, -x.numel() % block)).view(block, -1).T
    absmax = blocks.abs().amax(dim=1)
    return blocks / absmax.clamp_min(1e-12).unsqueeze(1), absmax
