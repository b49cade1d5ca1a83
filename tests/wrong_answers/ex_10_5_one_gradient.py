"""10.5
incorrect number of gradients
"""

import torch


class answer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dequantize):
        ctx.dequantize = dequantize
        return x @ dequantize().T

    @staticmethod
    def backward(ctx, grad):
        return grad @ ctx.dequantize()
