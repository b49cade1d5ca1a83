"""10.5
it must go back through W
"""

import torch


class answer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dequantize):
        return x @ dequantize().T

    @staticmethod
    def backward(ctx, grad):
        return grad, None
