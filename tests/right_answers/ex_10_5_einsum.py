"""10.5"""

import torch
import torch.nn.functional as F


class answer(torch.autograd.Function):
    @staticmethod
    def forward(x, dequantize):
        return F.linear(x, dequantize())

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.make = inputs[1]

    @staticmethod
    def backward(ctx, grad):
        gradient = None
        if ctx.needs_input_grad[0]:
            gradient = torch.einsum("...o,oi->...i", grad, ctx.make())
        return gradient, None
