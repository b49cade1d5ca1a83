"""10.2"""

import torch


def answer(x, block):
    parts = list(x.flatten().split(block))
    parts[-1] = torch.cat([parts[-1], torch.zeros(block - len(parts[-1]))])
    absmax = [part.abs().max() for part in parts]
    scaled = [part if m == 0 else part / m for part, m in zip(parts, absmax, strict=True)]
    return torch.stack(scaled), torch.stack(absmax)
