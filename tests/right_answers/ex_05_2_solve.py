"""05.2"""

import torch


def answer(grad_B, A, scaling):
    return torch.linalg.solve(scaling**2 * A @ A.T, grad_B, left=False)
