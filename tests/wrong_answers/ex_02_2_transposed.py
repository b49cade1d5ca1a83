"""02.2
A and B are transposed
"""

import math

import torch
from torch import nn


def answer(in_features, out_features, rank):
    A = nn.Parameter(torch.empty(in_features, rank))
    nn.init.kaiming_uniform_(A, a=math.sqrt(5))
    return A, nn.Parameter(torch.zeros(rank, out_features))
