"""09.4
goes into ctx
"""

import torch


class answer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, block):
        answer.x, answer.block, answer.random = x.detach(), block, torch.get_rng_state()
        return block(x)

    @staticmethod
    def backward(ctx, grad):
        leaf = answer.x.detach().requires_grad_()
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(answer.random)
            y = answer.block(leaf)
        y.backward(grad)
        return leaf.grad, None
