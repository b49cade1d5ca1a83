"""02.2
A x would grow with the width
"""

import torch
from torch import nn


def answer(in_features, out_features, rank):
    return nn.Parameter(torch.randn(rank, in_features)), nn.Parameter(torch.zeros(out_features, rank))
