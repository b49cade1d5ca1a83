"""99.2"""

from torch import nn


class Shift(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.number = by

    def forward(self, x):
        return self.number + x


answer = Shift
