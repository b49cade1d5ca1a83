"""05.2
make a new tensor
"""

import torch


def answer(grad_B, A, scaling):
    grad_B /= scaling**2
    return grad_B.copy_(torch.linalg.solve(A @ A.T, grad_B.T).T)
