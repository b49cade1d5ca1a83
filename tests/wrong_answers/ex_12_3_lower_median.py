"""12.3
torch.median gives the lower
"""

import torch


def answer(mine, others, step, startup=5):
    there = torch.tensor([other[step] for other in others if step in other])
    if len(there) < startup:
        return False
    return min(v for s, v in mine.items() if s <= step) > there.median().item() + 1e-6
