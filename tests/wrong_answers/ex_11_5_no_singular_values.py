"""11.5
the singular values are missing
"""

import torch


def answer(A, B, rank):
    Q_B, R_B = torch.linalg.qr(B)
    Q_A, R_A = torch.linalg.qr(A.T)
    U, S, Vh = torch.linalg.svd(R_B @ R_A.T)
    return Vh[:rank] @ Q_A.T, Q_B @ U[:, :rank]
