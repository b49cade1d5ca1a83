"""05.2
divided by s once
"""

import torch


def answer(grad_B, A, scaling):
    return grad_B @ torch.linalg.inv(A @ A.T) / scaling
