"""07.1"""

import torch


def answer(grad_W, A, scaling, learning_rate):
    """Let autograd take the step."""
    A = A.clone().requires_grad_()
    B = torch.zeros(grad_W.shape[0], A.shape[0], dtype=A.dtype, requires_grad=True)
    loss = torch.einsum("oi,or,ri->", grad_W, B, A) * scaling
    step_A, step_B = torch.autograd.grad(loss, [A, B])
    return (scaling * (B - learning_rate * step_B) @ (A - learning_rate * step_A)).detach()
