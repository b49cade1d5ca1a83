"""11.5
A, which you were given
"""

import torch


def answer(A, B, rank):
    Q_B, R_B = torch.linalg.qr(B)
    Q_A, R_A = torch.linalg.qr(A.T)
    U, S, Vh = torch.linalg.svd(R_B @ R_A.T)
    B.copy_(Q_B @ U * S)
    A.copy_(Vh @ Q_A.T)
    return A[:rank], B[:, :rank]
