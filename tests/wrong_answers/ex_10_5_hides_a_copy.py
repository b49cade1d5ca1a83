"""10.5
dequantize was not called in the backward pass
"""

import torch


class answer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dequantize):
        ctx.copy = dequantize().clone()
        return x @ ctx.copy.T

    @staticmethod
    def backward(ctx, grad):
        return grad @ ctx.copy, None
