"""02.2
no optimizer would ever see it
"""

import torch
from torch import nn


def answer(in_features, out_features, rank):
    A = torch.empty(rank, in_features)
    nn.init.kaiming_uniform_(A, a=5**0.5)
    return A, torch.zeros(out_features, rank)
