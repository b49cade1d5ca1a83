"""11.4
two equal rows of A
"""

import torch


def answer(A, B, alpha, rank):
    more = rank - len(A)
    columns = torch.zeros(len(B), more, dtype=B.dtype)
    return torch.cat([A, A[-1:].expand(more, -1)]), torch.cat([B, columns], dim=1), alpha * rank / len(A)
