"""02.4"""

import torch


def answer(grad_h, x, A, B, scaling):
    grad_low = torch.einsum("no,or->nr", grad_h, B) * scaling
    grad_A = torch.einsum("nr,ni->ri", grad_low, x)
    grad_B = torch.einsum("no,nr->or", grad_h, torch.einsum("ni,ri->nr", x, A)) * scaling
    return torch.einsum("nr,ri->ni", grad_low, A), grad_A, grad_B
