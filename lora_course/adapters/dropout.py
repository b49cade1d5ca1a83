"""Dropout on the way into an adapter, drawn once for all layers that read the same x.

q, k and v of an attention layer read one x. Three masks would cost three draws (each as dear, on a CPU, as a product
with a weight matrix), three masks and three dropped copies of x kept for the backward pass. One of each does.
A mask has a byte an entry. On a CPU it is made of 16 random bits an entry instead of a random float, several times
faster; p is rounded to the nearest 1/65536 for that, and the scale 1 / (1 - p) with it, so that the mean stays exact.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from lora_course.adapters.fused import fused_is_on


class SharedDropout(nn.Dropout):
    """nn.Dropout that takes what another layer's has just drawn for the same x and p.

    "Just": nothing has drawn from the generator since. So what checkpointing computes a second time draws a second
    time, as it did at first. A layer that asks again, in the next step on the same x, starts a new draw. Inside
    `plain_forward` it is nn.Dropout, mask for mask.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        if torch.compiler.is_compiling() or not fused_is_on():
            return nn.functional.dropout(x, self.p)
        return _LAST.get(x, self.p, self)


def dropped(dropout: nn.Module, x: Tensor) -> Tensor | None:
    """x after dropout; None if nothing is dropped now."""
    return dropout(x) if dropout.training and isinstance(dropout, SharedDropout) else None


class _Drop(torch.autograd.Function):
    """x where `keep`, times `scale`; keeps the mask for the backward pass, not x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return keep.to(x.dtype).mul_(x).mul_(scale)  # twice as fast as x * keep, which converts entry by entry

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        _LAST.forget()  # its graph is used up
        return keep.to(grad.dtype).mul_(grad).mul_(ctx.scale), None, None


def drop(x: Tensor, p: float) -> Tensor:
    """x with each entry zeroed with probability p and the others divided by 1 - p."""
    zeros = round(p * 2**16)  # of 65 536 equally likely values
    if x.device.type != "cpu" or not 0 < zeros < 2**16 or torch._C._are_functorch_transforms_active():
        return torch.native_dropout(x, p, True)[0]
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    keep = (bits[: x.numel()] >= zeros - 2**15).view(x.shape)
    return _Drop.apply(x, keep, 2**16 / (2**16 - zeros))


class _LastResult:
    """One result, kept no longer than the x that it was made of, and the layers that have taken it."""

    def __init__(self) -> None:
        self.forget()

    def get(self, x: Tensor, p: float, layer: nn.Module) -> Tensor:
        result = self.result
        if self.x is None or self.x() is not x or layer in self.taken or self.key != self._key(x, p):
            result = drop(x, p)
            self.forget()
            self.x, self.key, self.result = weakref.ref(x, self._x_is_gone), self._key(x, p), result
        self.taken.add(layer)
        return result

    def forget(self) -> None:
        self.x = self.key = self.result = None
        self.taken: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def _x_is_gone(self, dead: weakref.ref) -> None:
        if self.x is dead:  # and not the one before it, which may live until its result is replaced
            self.forget()

    @staticmethod
    def _key(x: Tensor, p: float) -> tuple:
        with _disable_current_modes():  # the generator is real, also where tensors are not (memory/plan.py)
            if x.device.type in ("cpu", "meta"):
                state = torch.get_rng_state()
            else:
                state = torch.get_device_module(x.device).get_rng_state(x.device)
            state = state.numpy().tobytes()
        return p, x._version, torch.is_grad_enabled(), state


_LAST = _LastResult()
