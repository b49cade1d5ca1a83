"""05.2
1 / s^2 is missing
"""

import torch


def answer(grad_B, A, scaling):
    return grad_B @ torch.linalg.inv(A @ A.T)
