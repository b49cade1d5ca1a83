"""02.2
its spread goes by in_features
"""

import torch
from torch import nn


def answer(in_features, out_features, rank):
    return nn.Parameter(torch.randn(rank, in_features) / rank**0.5), nn.Parameter(torch.zeros(out_features, rank))
