"""02.2"""

import torch
from torch import nn


def answer(in_features, out_features, rank):
    bound = in_features**-0.5
    return nn.Parameter(torch.empty(rank, in_features).uniform_(-bound, bound)), nn.Parameter(
        torch.zeros(out_features, rank)
    )
