"""OLoRA: Orthonormal Low-Rank Adaptation (Büyükakyüz 2024, arXiv:2406.01775).

    W = Q R;   B = Q_r, the first r columns, orthonormal;  A = R_r, the first r rows
    W_res = W - s B A stays frozen in the base layer;   h = W_res x + b + s B A dropout(x)

PiSSA with a QR decomposition in place of the singular values: far cheaper, and B starts with orthonormal columns, but
Q_r R_r is the part of W that its first columns happen to span, not the largest. As in PEFT, B and A are not divided
by s, so W_res is W less s times that part. All that PiSSA says about the changed base holds here.
"""

import torch
from torch import Tensor

from lora_course.adapters.pissa import PiSSA


class OLoRA(PiSSA):
    """LoRA that starts from r columns of Q and rows of R and leaves the rest in the base layer. r (in + out) trainable.

    Buffers, files and errors as in PiSSA.
    """

    def principal_part(self, W: Tensor) -> tuple[Tensor, Tensor]:
        """A (r, in), B (out, r), the first rows of R and columns of Q."""
        Q, R = torch.linalg.qr(W)
        return R[: self.config.rank], Q[:, : self.config.rank]
