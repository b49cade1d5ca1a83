"""rsLoRA: rank-stabilized scaling (Kalajdzievski 2023, arXiv:2312.03732).

    h = W x + b + s B A dropout(x),    s = alpha / sqrt(rank)

After one step of gradient descent B is -lr s G A^T for the gradient G of W, so that s B A x = -lr s^2 G A^T A x, and
A^T A is a sum over the r rows of A: the change of the output goes like s^2 r. With s = alpha / r it fades like 1 / r,
and a larger rank learns no more than a small one; with s = alpha / sqrt(r) it is the same at every rank. Nothing else
differs from LoRA, and at rank 1 nothing at all.
"""

import math

from lora_course.adapters.lora import LoRA


class RsLoRA(LoRA):
    """LoRA with s = alpha / sqrt(rank). r (in + out) trainable."""

    peft_marks = {"use_rslora": True}

    @property
    def scaling(self) -> float:
        return self.config.alpha / math.sqrt(self.config.rank)
