"""11.5
you kept the smallest singular values
"""

import torch


def answer(A, B, rank):
    Q_B, R_B = torch.linalg.qr(B)
    Q_A, R_A = torch.linalg.qr(A.T)
    U, S, Vh = torch.linalg.svd(R_B @ R_A.T)
    return S[-rank:, None] * Vh[-rank:] @ Q_A.T, Q_B @ U[:, -rank:]
