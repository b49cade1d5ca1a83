"""11.2"""

import torch


def answer(weight, gradient, average, spread, beta1, beta2):
    """A running average is a step towards the new value."""
    now = torch.abs(weight) * torch.abs(gradient)
    average = torch.lerp(average, now, 1 - beta1)
    spread = spread + (1 - beta2) * (torch.maximum(now, average) - torch.minimum(now, average) - spread)
    return [average, spread, average.mul(spread)]
