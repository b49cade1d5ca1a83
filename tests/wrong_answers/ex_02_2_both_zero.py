"""02.2
each one's gradient is multiplied by the other
"""

import torch
from torch import nn


def answer(in_features, out_features, rank):
    return nn.Parameter(torch.zeros(rank, in_features)), nn.Parameter(torch.zeros(out_features, rank))
