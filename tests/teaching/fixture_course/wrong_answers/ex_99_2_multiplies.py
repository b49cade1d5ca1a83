"""99.2
you multiplied instead
"""

import torch


class Shift(torch.nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x * self.by


answer = Shift
