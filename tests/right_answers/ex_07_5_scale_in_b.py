"""07.5"""

import torch


def answer(A, B, A0, B0, alpha):
    """Keeps alpha and doubles B instead."""
    return torch.vstack((A, A0)), 2 * torch.hstack((B, -B0)), alpha
