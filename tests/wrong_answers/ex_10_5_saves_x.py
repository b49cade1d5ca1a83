"""10.5
without x. Only the gradient of W
"""

import torch


class answer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dequantize):
        ctx.dequantize = dequantize
        ctx.save_for_backward(x)
        return x @ dequantize().T

    @staticmethod
    def backward(ctx, grad):
        return grad @ ctx.dequantize(), None
