"""LoRA, DoRA and VeRA on a frozen dense layer as one autograd step each, with the backward pass written by hand.

Autograd would keep or make several tensors of the size of the layer's output (the branch, the branch times s, the
sum). One Function makes the output once, adds the small product and the large one in place (`mm_plus`), keeps only what
the gradients need, and takes products that read the same large matrix one after the other.

    LoRA    x (shared by all layers that read it), and x A^T            N d + N r numbers
            without x where A is frozen (LoRA-FA)                            N r
    DoRA    also the output before it is stretched                      N d + N r + N k
    VeRA    A x alone: the rest is computed again                              N r
N tokens, d in, k out. With dropout, x is the dropped x, kept once for all layers that share its mask.
A quantized W is made again for the backward pass and never kept. The plain forward of each method says the same in the
words of the paper; `usable` says when this one takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lora_course.adapters.base import Adapter, is_packed, weight_view
from lora_course.products import mm, mm_plus

Base = Tensor | nn.Module  # the frozen weight (k, d), or the quantized layer that has it packed
_SWITCHED_ON = ContextVar("fused", default=True)


@contextmanager
def plain_forward() -> Iterator[None]:
    """Inside this block every adapter computes its plain forward, with a dropout mask of its own, as PEFT's do."""
    token = _SWITCHED_ON.set(False)
    try:
        yield
    finally:
        _SWITCHED_ON.reset(token)


def fused_is_on() -> bool:
    return _SWITCHED_ON.get()


def usable(layer: Adapter, x: Tensor, *own: Tensor) -> bool:
    """Whether the hand-written step takes the place of the plain forward.

    layer: the adapter, in training mode and not merged.  x: its input.  own: the tensors it multiplies by.
    In eval mode the plain forward answers, with PEFT's very numbers. So it does where the base is not a frozen dense
    layer of one dtype, or where somebody must see inside: hooks on the base; torch.compile, which fuses by itself;
    autocast, which chooses a dtype for each operation; torch.func, which differentiates in ways of its own.
    """
    if torch.compiler.is_compiling() or not (layer.training and torch.is_grad_enabled() and fused_is_on()):
        return False
    base, dtype, device = layer.base_layer, x.dtype, x.device
    if layer.merged or not _multiplies(base) or torch._C._are_functorch_transforms_active():
        return False
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return False
    if base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks:
        return False
    kept = [*base.parameters(recurse=False)]
    if any(t.requires_grad for t in kept) or (is_packed(base) and base.dtype != dtype):
        return False
    return all(t.dtype == dtype and t.device == device for t in (*kept, *own))


def _multiplies(base: nn.Module) -> bool:
    """Whether its forward is W x + b and nothing else: not so in a subclass of Linear, or of a quantized layer."""
    if not is_packed(base):
        return type(base).__name__ in ("Linear", "Conv1D")
    from lora_course.quantization.linear import QuantizedLayer  # which imports from this folder

    return type(base).forward is QuantizedLayer.forward


def frozen(layer: Adapter) -> tuple[Base, Tensor | None]:
    """What a step takes for W, which is the weight (k, d) or a quantized layer; and the bias (k,) or None."""
    base = layer.base_layer
    return base if is_packed(base) else weight_view(base), layer.bias


# Each step takes x (..., d); its copy after dropout, None where there is none; W and b as `frozen` has them; and the
# tensors of the method. It returns (..., k).


class LoRAStep(torch.autograd.Function):
    """h = W x + b + s B A dropped."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor | None, base: Base, bias: Tensor | None, A: Tensor, B: Tensor, s: float
    ) -> Tensor:
        """A (r, d), B (k, r)."""
        W = _dense(base)
        x2, branch = _rows(x, dropped)
        a = mm(A, branch.T).mul_(s)  # (r, N)
        h = mm_plus(a.T, B.T, x2, W.T, bias)  # (N, k)
        _keep(ctx, base, branch if A.requires_grad else None, a, A, B)
        ctx.s, ctx.dropping = s, dropped is not None
        return h.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        base, branch, a, A, B = _kept(ctx)
        *_, for_A, for_B, _ = ctx.needs_input_grad
        g = grad.reshape(-1, grad.shape[-1]).contiguous()  # (N, k)
        g_a = mm(g, B).mul_(ctx.s)  # (N, r)
        g_B = mm(a, g).T if for_B else None  # (k, r)
        g_A = mm(g_a.T, branch) if for_A else None  # (r, d)
        return *_input_gradients(ctx, grad, g, g_a, A, base), None, None, g_A, g_B, None


class DoRAStep(torch.autograd.Function):
    """h = W x + b + c * t - W dropped with t = (W + s B A) dropped, which without dropout is b + c * t."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        base: Base,
        bias: Tensor | None,
        A: Tensor,
        B: Tensor,
        m: Tensor,
        norm: Tensor,
        s: float,
    ) -> Tensor:
        """As LoRAStep; m: (k,), trained; norm: (k,), ||V||, which counts as a constant. c is m / norm."""
        W, c = _dense(base), stretch(m, norm).to(m.dtype)
        x2, branch = _rows(x, dropped)
        a = mm(A, branch.T).mul_(s)  # (r, N)
        t = mm_plus(a.T, B.T, branch, W.T)  # (N, k)
        if dropped is not None:  # W dropped = t - s B A dropped
            h = mm_plus(a.T, B.T, x2, W.T, bias).addcmul_(t, c - 1)
        else:
            h = t * c if bias is None else torch.addcmul(bias, t, c)
        _keep(ctx, base, branch, a, t, A, B, m, norm)
        ctx.s, ctx.dropping = s, dropped is not None
        return h.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        base, branch, a, t, A, B, m, norm = _kept(ctx)
        c = stretch(m, norm).to(m.dtype)
        g = grad.reshape(-1, grad.shape[-1]).contiguous()  # (N, k)
        g_B = mm(a, g).mul_(c).T  # (k, r), for g_t = g * c
        g_a = mm(g, c.unsqueeze(1) * B).mul_(ctx.s)  # (N, r)
        scratch = g * t  # (N, k)
        g_m = torch.where(norm > 0, scratch.sum(0) / norm, 0).to(m.dtype)  # (k,)
        g_x = g_dropped = None
        if ctx.dropping:
            W = _dense(base)
            g_x = mm(g, W)  # (N, d)
            g_dropped = mm_plus(g_a, A, *_stretched(g, c - 1, W, scratch))
        elif ctx.needs_input_grad[0]:
            g_x = mm_plus(g_a, A, *_stretched(g, c, _dense(base), scratch))
        g_A = mm(g_a.T, branch)  # (r, d)
        return _shaped(g_x, grad), _shaped(g_dropped, grad), None, None, g_A, g_B, g_m, None, None


class VeRAStep(torch.autograd.Function):
    """h = W x + b + b_vec * (B (d_vec * (A dropped)))."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        base: Base,
        bias: Tensor | None,
        A: Tensor,
        B: Tensor,
        d: Tensor,
        b: Tensor,
    ) -> Tensor:
        """As LoRAStep, with A and B frozen; d: (r,) and b: (k,), the two trained vectors."""
        W = _dense(base)
        x2, branch = _rows(x, dropped)
        a = mm(A, branch.T)  # (r, N)
        h = mm_plus((a * d.unsqueeze(1)).T, (b.unsqueeze(1) * B).T, x2, W.T, bias)  # (N, k)
        _keep(ctx, base, a, d, b)
        ctx.A, ctx.B = A, B  # of the whole model, never written to
        ctx.dropping = dropped is not None
        return h.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        base, a, d, b = _kept(ctx)
        A, B = ctx.A, ctx.B
        g = grad.reshape(-1, grad.shape[-1]).contiguous()  # (N, k)
        g_u = mm((b.unsqueeze(1) * B).T, g.T)  # (r, N), for u = d * a
        g_b = (mm(a * d.unsqueeze(1), g).T * B).sum(1)  # sum over N of g * (B u), without the (N, k) tensor B u
        g_d = (g_u * a).sum(1)
        g_a = g_u.mul_(d.unsqueeze(1)).T  # (N, r)
        return *_input_gradients(ctx, grad, g, g_a, A, base), None, None, None, None, g_d, g_b


def _dense(base: Base) -> Tensor:
    """W (k, d); of a quantized layer a new tensor."""
    return base if isinstance(base, Tensor) else base.dense()


def _keep(ctx: Any, base: Base, *tensors: Tensor | None) -> None:
    """For the backward pass. A weight goes with the tensors, since autograd then notices if it was written to."""
    ctx.packed = None if isinstance(base, Tensor) else base
    ctx.save_for_backward(None if ctx.packed else base, *tensors)


def _kept(ctx: Any) -> tuple[Any, ...]:
    weight, *tensors = ctx.saved_tensors
    return ctx.packed or weight, *tensors


def _rows(x: Tensor, dropped: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both as (N, d); without dropout twice the same."""
    x2 = x.reshape(-1, x.shape[-1])
    return x2, x2 if dropped is None else dropped.reshape(-1, x.shape[-1])


def _input_gradients(
    ctx: Any, grad: Tensor, g: Tensor, g_a: Tensor, A: Tensor, base: Base
) -> tuple[Tensor | None, Tensor | None]:
    """Of x and of its dropped copy, for g (N, k) of h = W x + b + … and g_a (N, r) of A dropped; None for unwanted."""
    for_x, for_dropped = ctx.needs_input_grad[:2]
    if ctx.dropping:
        g_x, g_dropped = mm(g, _dense(base)) if for_x else None, mm(g_a, A) if for_dropped else None  # (N, d)
        return _shaped(g_x, grad), _shaped(g_dropped, grad)
    return _shaped(mm_plus(g_a, A, g, _dense(base)) if for_x else None, grad), None


def stretch(m: Tensor, norm: Tensor) -> Tensor:
    """DoRA's m / norm, both (k,), in the wider of their dtypes; 1, with no gradient for m, for a row of zeros."""
    return torch.where(norm > 0, m / torch.where(norm > 0, norm, 1), 1)


def _stretched(g: Tensor, c: Tensor, W: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors of (g * c) W, g (N, k), c (k,), W (k, d): the smaller one takes c, in scratch (N, k)."""
    if len(g) < W.shape[1]:
        return torch.mul(g, c, out=scratch), W
    return g, torch.mul(c.unsqueeze(1), W, out=scratch.as_strided(W.shape, W.stride()))


def _shaped(rows: Tensor | None, grad: Tensor) -> Tensor | None:
    """(N, d) as (..., d), for a gradient (..., k)."""
    return None if rows is None else rows.view(*grad.shape[:-1], -1)
