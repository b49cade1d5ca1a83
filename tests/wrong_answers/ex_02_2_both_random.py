"""02.2
before the first step the model is already damaged
"""

import math

import torch
from torch import nn


def answer(in_features, out_features, rank):
    A = nn.Parameter(torch.empty(rank, in_features))
    B = nn.Parameter(torch.empty(out_features, rank))
    nn.init.kaiming_uniform_(A, a=math.sqrt(5))
    nn.init.kaiming_uniform_(B, a=math.sqrt(5))
    return A, B
