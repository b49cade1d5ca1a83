"""Compute in pieces what is wide, so that it is never whole: the logits of a language model, the inside of an MLP.

The logits of 1 024 tokens over 49 152 words take 192 MiB in float32, and autograd holds three tensors of that size at
its worst moment. A token's loss and gradients need no other token's logits:

    z = W h + b        loss = mean over the targets of  log(sum exp z) - z[target]
    grad z = (softmax(z) - onehot(target)) / targets      grad h = W^T grad z      grad W = sum of (grad z) h^T
so the forward pass computes them all, a chunk of tokens at a time, and keeps the gradients of h (and W) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

IGNORED = -100  # the label of a token that is no target, in torch and transformers
CHUNK = 64  # tokens: 12 MiB of logits over 49 152 words
# Settings by which some models change their logits, or add to their loss, after the output layer.
BEYOND_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_router_logits")


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None, chunk: int = CHUNK
) -> Tensor:
    """`F.cross_entropy(F.linear(hidden, weight, bias), labels)`, a mean over the targets, without whole logits.

    hidden: (..., d)   weight: (V, d)   labels: (...) in 0 .. V - 1, or -100 where there is no target   bias: (V,)
    chunk: tokens whose logits exist at a time. The peak grows with it; below some dozens, so does the time.
    Returns a scalar, in float32 if the inputs are narrower; NaN if there is no target, as torch's.

    Keeps for backward the gradients themselves: N d numbers, and V d (V) where the weight (bias) is trained. They are
    computed in the forward pass, so a loss that nobody differentiates belongs inside torch.no_grad().
    Raises ValueError for shapes that do not fit together or a chunk below 1.
    """
    if hidden.shape[:-1] != labels.shape or hidden.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"need hidden (..., d), labels (...) and weight (V, d), got {tuple(hidden.shape)}, {tuple(labels.shape)} "
            f"and {tuple(weight.shape)}"
        )
    if chunk < 1:
        raise ValueError(f"chunk is a number of tokens, 1 or more, got {chunk}")
    if not torch.is_grad_enabled():
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    return _ChunkedCrossEntropy.apply(hidden.reshape(-1, hidden.shape[-1]), weight, bias, labels.reshape(-1), chunk)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int) -> Tensor:
        """hidden (N, d), weight (V, d), bias (V,) or None, labels (N,)."""
        wanted = ctx.needs_input_grad[:3]
        exact = torch.promote_types(hidden.dtype, torch.float32)
        g_hidden = torch.empty_like(hidden) if wanted[0] else None
        g_weight = torch.zeros_like(weight, dtype=exact) if wanted[1] else None
        g_bias = torch.zeros_like(bias, dtype=exact) if wanted[2] else None
        targets = (labels != IGNORED).sum()
        share = (labels != IGNORED).to(exact) / targets.clamp(min=1)  # (N,), of each token in the mean
        total = hidden.new_zeros((), dtype=exact)
        for start in range(0, len(labels), chunk):
            rows = slice(start, start + chunk)
            h, target = hidden[rows], labels[rows].where(labels[rows] != IGNORED, 0)[:, None]  # (C, d), (C, 1)
            z = F.linear(h, weight, bias).to(exact)  # (C, V), and in this one tensor all that follows
            of_target, top = z.gather(1, target), z.amax(1, keepdim=True)  # (C, 1) each
            p = z.sub_(top).exp_()
            norm = p.sum(1, keepdim=True)
            total += share[rows] @ (norm.log() + top - of_target)[:, 0]
            g = p.mul_(share[rows, None] / norm).scatter_add_(1, target, -share[rows, None])
            if wanted[0]:
                g_hidden[rows] = g.to(weight.dtype) @ weight
            if wanted[1]:
                g_weight.addmm_(g.T, h.to(exact))
            if wanted[2]:
                g_bias += g.sum(0)
            del z, p, g  # before the next chunk's are made
        narrow = [None if g is None else g.to(t.dtype) for g, t in ((g_weight, weight), (g_bias, bias))]
        ctx.save_for_backward(g_hidden, *narrow)
        return torch.where(targets > 0, total, torch.nan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if g is None else g * grad for g in ctx.saved_tensors), None, None


def chunked_lm_loss(chunk: int = CHUNK) -> Callable[[nn.Module, Mapping[str, Tensor]], Tensor]:
    """The loss of a transformers causal language model, equal to the model's own, without whole logits.

    Returns loss(model, batch), for `training.loop.fit(loss=...)` and `memory.measure(loss=...)`. As in transformers,
    token i predicts label i + 1 and the mean is over labels that are not -100. The model's key and value cache is off.

    That loss raises ValueError for a model whose logits are more than hidden states times an output layer's weight:
    an encoder-decoder, a model that caps or scales its logits, an adapter on the output layer.
    """

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        inputs = {"use_cache": False, **batch}
        labels = inputs.pop("labels")  # (B, T)
        body, head = _body_and_head(model)
        hidden = body(**inputs).last_hidden_state  # (B, T, d)
        following = F.pad(labels[:, 1:], (0, 1), value=IGNORED)  # (B, T)
        return chunked_cross_entropy(hidden, head.weight, following, head.bias, chunk)

    loss.__name__ = f"chunked_lm_loss({chunk})"  # what a checkpoint calls it
    return loss


def _body_and_head(model: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """All but the output layer, and the output layer."""
    body, config = getattr(model, "base_model", model), getattr(model, "config", None)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    beyond = [name for name in BEYOND_THE_HEAD if getattr(config, name, None) not in (None, False, 1, 1.0)]
    problem = ""
    if body is model or head is None or getattr(config, "is_encoder_decoder", False):
        problem = f"needs a causal language model of transformers, got a {type(model).__name__}"
    elif not isinstance(head, nn.Linear):
        problem = f"multiplies by the output layer's weight, but that layer is a {type(head).__name__}"
    elif beyond:
        problem = f"knows nothing of {', '.join(beyond)}, by which this model changes its logits or its loss"
    if problem:
        raise ValueError(f"chunked_lm_loss {problem}; use the model's own loss")
    return body, head


def chunked_over_tokens(layer: nn.Module, x: Tensor, chunk: int) -> Tensor:
    """layer(x) for a layer that treats each token alone, such as an MLP, computed `chunk` tokens at a time.

    x: (..., d_in); returns (..., d_out). Equal to layer(x), and so are the gradients, but for dropout, which draws its
    masks in another order. Each chunk is computed again in the backward pass: x is kept, and nothing of the width
    inside the layer; what that costs is a second forward pass. Raises ValueError for a chunk below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk is a number of tokens, 1 or more, got {chunk}")
    pieces = x.reshape(-1, x.shape[-1]).split(chunk)  # views of x: kept once
    y = torch.cat([checkpoint(layer, piece, use_reentrant=False) for piece in pieces])  # (N, d_out)
    return y.view(*x.shape[:-1], -1)
