"""12.4"""

import torch


def answer(validation, test):
    best, chosen = validation.max(dim=1)
    return best.mean(), test[torch.arange(len(test)), chosen].mean()
