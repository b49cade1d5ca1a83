"""10.2
take abs first
"""

import torch.nn.functional as F


def answer(x, block):
    blocks = F.pad(x.flatten(), (0, -x.numel() % block)).view(-1, block)
    largest = blocks.amax(dim=1)
    return blocks / largest.clamp_min(1e-12).unsqueeze(1), largest
