"""09.4"""

import torch


class answer(torch.autograd.Function):
    """Asks for all gradients at once, and adds those of the parameters to their .grad itself."""

    @staticmethod
    def forward(ctx, x, block):
        ctx.save_for_backward(x, torch.get_rng_state())
        ctx.block = block
        with torch.no_grad():
            return block(x)

    @staticmethod
    def backward(ctx, grad):
        x, before = ctx.saved_tensors
        now = torch.get_rng_state()
        torch.set_rng_state(before)
        with torch.enable_grad():
            leaf = x.clone().detach().requires_grad_(True)
            y = ctx.block(leaf)
        torch.set_rng_state(now)
        trained = [p for p in ctx.block.parameters() if p.requires_grad]
        for_x, *others = torch.autograd.grad(y, [leaf, *trained], grad)
        for p, g in zip(trained, others, strict=True):
            p.grad = g if p.grad is None else p.grad + g
        return for_x, None
