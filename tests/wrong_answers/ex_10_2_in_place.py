"""10.2
x was changed in place
"""

import torch


def answer(x, block):
    flat = x.view(-1)
    parts = [flat[i : i + block] for i in range(0, len(flat), block)]
    absmax = torch.stack([part.abs().max() for part in parts])
    scaled = torch.zeros(len(parts), block)
    for i, part in enumerate(parts):
        part /= absmax[i].clamp_min(1e-12)
        scaled[i, : len(part)] = part
    return scaled, absmax
