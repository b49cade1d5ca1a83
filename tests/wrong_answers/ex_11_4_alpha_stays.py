"""11.4
alpha must grow along
"""

import torch


def answer(A, B, alpha, rank):
    rows = torch.empty(rank - len(A), A.shape[1], dtype=A.dtype)
    torch.nn.init.kaiming_uniform_(rows, a=5**0.5)
    columns = torch.zeros(B.shape[0], rank - len(A), dtype=B.dtype)
    return torch.cat([A, rows]), torch.cat([B, columns], dim=1), alpha
