"""09.4
the inside of the block survives the forward pass
"""

import torch


class answer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, block):
        ctx.block, ctx.random = block, torch.get_rng_state()
        with torch.enable_grad():
            ctx.leaf = x.detach().requires_grad_()
            ctx.y = block(ctx.leaf)
        return ctx.y.detach()

    @staticmethod
    def backward(ctx, grad):
        ctx.y.backward(grad)
        return ctx.leaf.grad, None
