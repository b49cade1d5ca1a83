"""LoRA inside torch's nn.MultiheadAttention: make its projections layers that are called, then adapt them as always.

nn.MultiheadAttention keeps the weights of q, k and v stacked in one tensor, in_proj_weight (3 d, d), and reads
out_proj.weight without calling out_proj: there is no layer to wrap. So `split_attention` replaces it by four nn.Linear
layers and torch's scaled_dot_product_attention, with the same weights and the same outputs:
    q, k, v = q_proj(query), k_proj(key), v_proj(value);  h = out_proj(softmax(q k^T / sqrt(d_head) + mask) v)
Then inject(model, AdapterConfig(target_modules=["q_proj", "v_proj"])) works with every method, and after merge and
eject, `join_attention` stacks the weights again. Attention: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_course.adapters.base import Adapter

PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class SplitAttention(nn.Module):
    """nn.MultiheadAttention with its own arguments and results, made of four layers that are called.

    attention: the layer to take weights (copied) and settings from.

    Raises ValueError for add_bias_kv or add_zero_attn, which attend to a position no projection makes.
    """

    # torch's encoder layers look for these to run a fused kernel on the stacked weights, past every adapter
    in_proj_weight = in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        if attention.bias_k is not None or attention.add_zero_attn:
            raise ValueError("cannot split an nn.MultiheadAttention made with add_bias_kv or add_zero_attn")
        self.embed_dim, self.kdim, self.vdim = attention.embed_dim, attention.kdim, attention.vdim
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.dropout, self.batch_first = attention.dropout, attention.batch_first
        biases = [None] * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
        if attention.in_proj_weight is not None:
            weights = attention.in_proj_weight.chunk(3)
        else:  # kdim or vdim differs from embed_dim
            weights = [getattr(attention, f"{name}_weight") for name in PROJECTIONS]
        for name, weight, bias in zip(PROJECTIONS, weights, biases, strict=True):
            self.add_module(name, _linear(weight, bias))
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """query (N, L, embed_dim), key (N, S, kdim), value (N, S, vdim); (L, N, …) unless batch_first; or without N.

        key_padding_mask: (N, S);  attn_mask: (L, S) or (N * heads, L, S). True, or -inf, hides a position.
        returns output like query, and with need_weights the attention (N, L, S), or (N, heads, L, S) unaveraged
        """
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is only a hint: pass the causal attn_mask too")
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q = self._heads(self.q_proj(query))  # (N, nh, L, hd)
        k = self._heads(self.k_proj(key))  # (N, nh, S, hd)
        v = self._heads(self.v_proj(value))  # (N, nh, S, hd)
        mask = self._mask(attn_mask, key_padding_mask, q, k)  # None or (N | 1, nh | 1, L | 1, S)
        dropout = self.dropout if self.training else 0.0

        weights = None
        if need_weights:
            scores = (q * math.sqrt(1.0 / self.head_dim)) @ k.transpose(-2, -1)  # (N, nh, L, S)
            weights = F.dropout(F.softmax(scores if mask is None else scores + mask, dim=-1), dropout)
            h = weights @ v  # (N, nh, L, hd)
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            h = F.scaled_dot_product_attention(q, k, v, mask, dropout)  # (N, nh, L, hd)
        out = self.out_proj(h.transpose(1, 2).flatten(2))  # (N, L, d)
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # (N, T, d) -> (N, nh, T, hd)

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
        """Both masks as one tensor to add to the scores, broadcastable to (N, nh, L, S)."""
        N, nh, L, S = *q.shape[:3], k.shape[2]
        total = None
        if attn_mask is not None:
            shapes = {(L, S): (1, 1, L, S), (N * nh, L, S): (N, nh, L, S)}
            if tuple(attn_mask.shape) not in shapes:
                raise ValueError(f"attn_mask is {tuple(attn_mask.shape)}; it must be {' or '.join(map(str, shapes))}")
            total = _additive(attn_mask, q.dtype).view(shapes[tuple(attn_mask.shape)])
        if padding is not None:
            if padding.shape != (N, S):
                raise ValueError(f"key_padding_mask is {tuple(padding.shape)}; it must be {(N, S)}")
            padding = _additive(padding, q.dtype).view(N, 1, 1, S)
            total = padding if total is None else total + padding
        return total


def split_attention(model: nn.Module) -> nn.Module:
    """Replace every nn.MultiheadAttention inside `model` by a SplitAttention. Call it before `inject`.

    Returns `model`; its SplitAttention if `model` is itself an nn.MultiheadAttention. Raises ValueError, before
    anything is changed, if there is none or one cannot be split.
    """
    found = {name: m for name, m in model.named_modules(remove_duplicate=False) if type(m) is nn.MultiheadAttention}
    if not found:
        raise ValueError(f"{type(model).__name__} has no nn.MultiheadAttention to split")
    split = {attention: SplitAttention(attention) for attention in dict.fromkeys(found.values())}
    return _replace_all(model, {name: split[attention] for name, attention in found.items()})


def join_attention(model: nn.Module) -> nn.Module:
    """Undo `split_attention`: stack the projections into plain nn.MultiheadAttention modules again. Returns `model`.

    Raises ValueError, before anything is changed, if there is none, or a projection still has an adapter.
    """
    found = {name: m for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, SplitAttention)}
    if not found:
        raise ValueError(f"{type(model).__name__} has no SplitAttention to join")
    for name, attention in found.items():
        if any(isinstance(layer, Adapter) for layer in attention.children()):
            raise ValueError(f"{name or 'this attention'} still has adapters: call merge(model) and eject(model) first")
    joined = {attention: _join(attention) for attention in dict.fromkeys(found.values())}
    return _replace_all(model, {name: joined[attention] for name, attention in found.items()})


@torch.no_grad()
def _join(split: SplitAttention) -> nn.MultiheadAttention:
    like = split.q_proj.weight
    attention = nn.MultiheadAttention(
        split.embed_dim,
        split.num_heads,
        dropout=split.dropout,
        bias=split.q_proj.bias is not None,
        kdim=split.kdim,
        vdim=split.vdim,
        batch_first=split.batch_first,
        device="meta",
        dtype=like.dtype,
    )
    layers = [getattr(split, name) for name in PROJECTIONS]
    if attention.in_proj_weight is not None:
        attention.in_proj_weight = _parameter(torch.cat([layer.weight for layer in layers]), like)
    else:
        for name, layer in zip(PROJECTIONS, layers, strict=True):
            setattr(attention, f"{name}_weight", _parameter(layer.weight, like))
    if attention.in_proj_bias is not None:
        attention.in_proj_bias = _parameter(torch.cat([layer.bias for layer in layers]), like)
        attention.out_proj.bias = _parameter(split.out_proj.bias, like)
    attention.out_proj.weight = _parameter(split.out_proj.weight, like)
    return attention.train(split.training)


def _parameter(values: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().clone(), requires_grad=like.requires_grad)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear with a copy of these values, trainable if they are."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = _parameter(weight, weight)
    if bias is not None:
        layer.bias = _parameter(bias, bias)
    return layer


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """True -> -inf, False -> 0; a float mask is added as it is."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask, -math.inf)


def _replace_all(model: nn.Module, replacements: dict[str, nn.Module]) -> nn.Module:
    for name, module in replacements.items():
        if not name:
            return module
        model.set_submodule(name, module)
    return model
