"""10.2
0 / 0
"""

import torch.nn.functional as F


def answer(x, block):
    blocks = F.pad(x.flatten(), (0, -x.numel() % block)).view(-1, block)
    absmax = blocks.abs().amax(dim=1)
    return blocks / absmax.unsqueeze(1), absmax
