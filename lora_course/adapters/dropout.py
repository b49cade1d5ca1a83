"""Dropout on the way into an adapter, drawn once for all layers that read the same x.

q, k and v of an attention layer read one x. Three masks for it would cost three draws (on a CPU as dear as a matrix
product), three dropped copies of x kept for the backward pass, and three masks. One does, with a byte for each entry:
torch's native_dropout. For a single layer, seed for seed, it drops what nn.Dropout drops.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

from lora_course.adapters.fused import fused_is_on


class SharedDropout(nn.Dropout):
    """nn.Dropout that returns its last result again if asked for the same x, with the same p, right afterwards.

    "Right afterwards": nothing has drawn from the generator since. So what checkpointing computes a second time draws
    a second time, as it did at first.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        if torch.compiler.is_compiling() or not fused_is_on():
            return nn.functional.dropout(x, self.p)
        return _LAST.get(x, self.p)


class _LastResult:
    """One result, kept no longer than the x that it was made of."""

    def __init__(self) -> None:
        self.x = self.key = self.result = None

    def get(self, x: Tensor, p: float) -> Tensor:
        result = self.result
        if self.x is None or self.x() is not x or self.key != self._key(x, p):
            result, _ = torch.native_dropout(x, p, True)
            self.x, self.key, self.result = weakref.ref(x, self._forget), self._key(x, p), result
        return result

    def _forget(self, dead: weakref.ref) -> None:
        if self.x is dead:  # and not the one before it, which may live until its result is replaced
            self.x = self.key = self.result = None

    @staticmethod
    def _key(x: Tensor, p: float) -> tuple:
        if x.device.type == "cpu":
            state = torch.get_rng_state()
        else:
            state = torch.get_device_module(x.device).get_rng_state(x.device)
        return p, x._version, torch.is_grad_enabled(), state.numpy().tobytes()


_LAST = _LastResult()
