"""12.3"""

import torch


def answer(mine, others, step, startup=5):
    there = torch.tensor([other[step] for other in others if step in other], dtype=torch.float64)
    if there.numel() < startup:
        return False
    so_far = torch.tensor([value for s, value in mine.items() if s <= step], dtype=torch.float64).amin()
    return bool(so_far > there.quantile(0.5))
