"""A frozen base layer plus a trainable change: what every technique in this folder shares.

Three kinds of layer multiply by a weight matrix, and each stores it differently:
    nn.Linear              weight (out, in)          y = x W^T + b
    transformers' Conv1D   weight (in, out)          y = x W + b         (GPT-2)
    nn.Embedding           weight (vocab, dim)       a lookup: x W for a one-hot x, so in = vocab, out = dim
`weight_view` shows all three as one (out, in) matrix over the same storage, so that each technique is written once.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_course.adapters.config import AdapterConfig

LayerKind = Literal["linear", "conv1d", "embedding"]


def layer_kind(layer: nn.Module) -> LayerKind | None:
    """Which of the three kinds `layer` is; None if it is something we cannot adapt."""
    if isinstance(layer, nn.Linear):
        return "linear"
    if isinstance(layer, nn.Embedding):
        return "embedding"
    # By name, so that importing us does not import transformers (seconds). Subclasses of Conv1D count too.
    if any(c.__name__ == "Conv1D" and c.__module__ == "transformers.pytorch_utils" for c in type(layer).__mro__):
        return "conv1d"
    return None


def weight_view(layer: nn.Module) -> Tensor:
    """The weight as an (out, in) matrix that shares storage with `layer`."""
    return layer.weight if layer_kind(layer) == "linear" else layer.weight.T


class Adapter(nn.Module):
    """Keeps the frozen layer in `base_layer`; a subclass adds parameters, `forward` and `delta_weight`.

    base_layer: nn.Linear, transformers Conv1D or nn.Embedding.
    config: the settings, shared by every adapter of a model.

    Raises TypeError for any other layer, ValueError for an embedding with max_norm (its lookup rewrites its weight).
    """

    def __init__(self, base_layer: nn.Module, config: AdapterConfig):
        super().__init__()
        kind = layer_kind(base_layer)
        if kind is None:
            raise TypeError(
                f"cannot adapt a {type(base_layer).__name__}: only Linear, Conv1D and Embedding layers have "
                "one weight matrix to add to"
            )
        if kind == "embedding" and base_layer.max_norm is not None:
            raise ValueError("cannot adapt an Embedding with max_norm: each lookup would rewrite the frozen weight")
        self.base_layer = base_layer.requires_grad_(False)
        self.config = config
        self.kind: LayerKind = kind
        self.out_features, self.in_features = weight_view(base_layer).shape
        self.merged = False

    @property
    def weight(self) -> Tensor:
        """The base layer's weight; some models read a layer's dtype from it."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return getattr(self.base_layer, "bias", None)

    def new_parameter(self, *shape: int) -> nn.Parameter:
        """An uninitialised trainable tensor with the base layer's dtype and device."""
        return nn.Parameter(torch.empty(*shape, dtype=self.weight.dtype, device=self.weight.device))

    def project_in(self, x: Tensor, A: Tensor) -> Tensor:
        """A x, for whatever x this kind of layer takes.

        x: (..., in) features, or (...) token ids if the base is an embedding, where A x is a column of A
        A: (r, in)
        returns (..., r)
        """
        if self.kind != "embedding":
            return F.linear(x.to(A.dtype), A)
        base = self.base_layer
        return F.embedding(x, A.T, padding_idx=base.padding_idx, scale_grad_by_freq=base.scale_grad_by_freq)

    def delta_weight(self) -> Tensor:
        """The change of the base weight, (out, in)."""
        raise NotImplementedError

    @torch.no_grad()
    def merge(self) -> None:
        """Add the change into the base weight, so that the layer costs what it cost before. Idempotent."""
        if not self.merged:
            weight_view(self.base_layer).add_(self.delta_weight().to(self.weight.dtype))
            self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the change out again, exact to rounding. Idempotent."""
        if self.merged:
            weight_view(self.base_layer).sub_(self.delta_weight().to(self.weight.dtype))
            self.merged = False

    def file_names(self) -> dict[str, str]:
        """Own parameter name -> the name that PEFT's file format gives it, relative to this module."""
        own = [name for name, _ in self.named_parameters(recurse=False)]
        if self.kind == "embedding":
            return {name: name.replace("lora_", "lora_embedding_") for name in own}
        return {name: f"{name}.weight" for name in own}

    def extra_repr(self) -> str:
        c = self.config
        return f"in={self.in_features}, out={self.out_features}, rank={c.rank}, alpha={c.alpha:g}, merged={self.merged}"
