"""A frozen base layer plus a trainable change: what every technique in this folder shares.

Three kinds of layer multiply by a weight matrix, and each stores it differently:
    nn.Linear              weight (out, in)          y = x W^T + b
    transformers' Conv1D   weight (in, out)          y = x W + b         (GPT-2)
    nn.Embedding           weight (vocab, dim)       a lookup: x W for a one-hot x, so in = vocab, out = dim
`weight_view` shows all three as one (out, in) matrix over the same storage, so that each technique is written once.
A quantized layer (lora_course/quantization/linear.py) says in `stands_for` which of them it replaces; its `weight` is a
copy of what is packed in it, to be read and never written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

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
    return getattr(layer, "stands_for", None)


def is_packed(layer: nn.Module) -> bool:
    """Whether the weight is quantized, so that no change can be written into it."""
    return hasattr(layer, "packed_bytes")


def weight_view(layer: nn.Module) -> Tensor:
    """The weight as an (out, in) matrix that shares storage with `layer`, unless it is packed."""
    return layer.weight if layer_kind(layer) == "linear" else layer.weight.T


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Half precision widened to float32, everything else as it is: for products that are taken once, when merging."""
    return tuple(t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors)


def trained_ids(optimizer: torch.optim.Optimizer) -> set[int]:
    """id() of every tensor in the optimizer's groups: to ask whether it trains something."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def refuse_shared_weights(model: nn.Module, targets: Mapping[str, nn.Module], who: str) -> None:
    """Raise ValueError if the weight of a target layer is also that of another layer: `who` changes the base weight."""
    owners: dict[int, set[str]] = {}
    for name, module in model.named_modules():  # a layer with two names comes once
        for parameter in module._parameters.values():
            owners.setdefault(id(parameter), set()).add(name)
    for name, layer in targets.items():
        if others := owners[id(layer.weight)] - {n for n, m in targets.items() if m is layer}:
            raise ValueError(
                f"{who} changes the base weight, and that of {name!r} is also the weight of "
                f"{', '.join(map(repr, sorted(others)))}: leave it out of target_modules"
            )


class Adapter(nn.Module):
    """Keeps the frozen layer in `base_layer`; a subclass adds parameters, `forward` and `delta_weight`.

    base_layer: nn.Linear, transformers Conv1D or nn.Embedding.
    config: the settings, shared by every adapter of a model.

    Raises TypeError for any other layer, ValueError for one that the method is not defined for, for dropout where the
    method has none, and for an embedding with max_norm (its lookup rewrites its weight).
    """

    kinds: ClassVar[tuple[LayerKind, ...]] = ("linear", "conv1d", "embedding")  # what the method is defined for
    has_dropout: ClassVar[bool] = True
    changes_base: ClassVar[bool] = False  # whether it begins by giving the layer another base weight

    # How files name the method and its settings; peft_format.py reads and writes them.
    peft_type: ClassVar[str | None] = None  # None: PEFT does not have the method
    peft_fields: ClassVar[Mapping[str, str]] = {}  # setting in PEFT's config -> the field of AdapterConfig it is
    peft_marks: ClassVar[Mapping[str, Any]] = {}  # settings that tell it from other methods of the same peft_type
    peft_constants: ClassVar[Mapping[str, Any]] = {}  # other settings that PEFT must find

    def __init__(self, base_layer: nn.Module, config: AdapterConfig):
        super().__init__()
        self.check(base_layer, config)
        self.base_layer = base_layer.requires_grad_(False)
        self.config = config
        self.kind: LayerKind = layer_kind(base_layer)
        self.out_features, self.in_features = weight_view(base_layer).shape
        self.merged = False

    @classmethod
    def check(cls, base_layer: nn.Module, config: AdapterConfig) -> None:
        """Raise, saying why, if this method cannot adapt this layer. Changes nothing; `inject` asks for all first."""
        kind = layer_kind(base_layer)
        if kind is None:
            raise TypeError(
                f"cannot adapt a {type(base_layer).__name__}: only Linear, Conv1D and Embedding layers have "
                "one weight matrix to add to"
            )
        if kind not in cls.kinds:
            raise ValueError(f"{config.method} is defined for Linear and Conv1D layers, not for an embedding")
        if kind == "embedding" and base_layer.max_norm is not None:
            raise ValueError("cannot adapt an Embedding with max_norm: each lookup would rewrite the frozen weight")
        if config.dropout and not cls.has_dropout:
            raise ValueError(f"{config.method} has no dropout, got {config.dropout}: leave it at 0")

    @classmethod
    def prepare(cls, model: nn.Module, targets: Mapping[str, nn.Module], config: AdapterConfig) -> dict[str, Any]:
        """What the layers of one model have in common: more arguments for their constructor.

        Called once by `inject`, after `check`. May refuse with ValueError; changes nothing.
        """
        if cls.changes_base:
            refuse_shared_weights(model, targets, config.method)
        return {}

    @staticmethod
    def count_trainable(in_features: int, out_features: int, rank: int) -> int:
        """The number of trainable parameters of one layer, by formula."""
        raise NotImplementedError

    @property
    def scaling(self) -> float:
        """The factor s in front of the change."""
        return self.config.scaling

    @property
    def weight(self) -> Tensor:
        """The base layer's weight; some models read a layer's dtype from it."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return getattr(self.base_layer, "bias", None)

    def own_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor of every parameter and buffer that the adapter adds to its base layer."""
        for named in (self.named_parameters(), self.named_buffers()):
            yield from ((name, tensor) for name, tensor in named if not name.startswith("base_layer."))

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
        """The change that `merge` makes to the base weight, (out, in)."""
        raise NotImplementedError

    def merge_problem(self) -> str:
        """Why this adapter cannot be merged, as the end of a sentence that begins with it; empty if it can."""
        if not all(torch.isfinite(tensor).all() for _, tensor in self.own_tensors()):
            return "holds NaN or infinity and would destroy the base"
        if is_packed(self.base_layer):
            return self._lost_in_packed_base()
        return ""

    def _lost_in_packed_base(self) -> str:
        with torch.no_grad():
            delta = self.delta_weight()
            kept = f"{self.base_layer.kept_of(delta):.2f}" if delta.any() else "undefined for a change of 0"
        return (
            f"has a base of {self.base_layer.format}, and quantizing the sum would round part of this change away: the "
            f"cosine between it and what would be left of it is {kept}. Keep the adapter as it is, or call "
            "dequantize_base(model) first and pay for whole weights"
        )

    @torch.no_grad()
    def merge(self) -> None:
        """Change the base weight, so that the layer costs what it cost before. Idempotent. Raises ValueError if the
        change is not finite or cannot be expressed as one of the weight.
        """
        if self.merged:
            return
        if problem := self.merge_problem():
            raise ValueError(f"refusing to merge: this adapter {problem}")
        self.fold()
        self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the change out again, exact to rounding. Idempotent."""
        if self.merged:
            self.unfold()
            self.merged = False

    def fold(self) -> None:
        weight_view(self.base_layer).add_(self.delta_weight().to(self.weight.dtype))

    def unfold(self) -> None:
        weight_view(self.base_layer).sub_(self.delta_weight().to(self.weight.dtype))

    def release(self) -> nn.Module:
        """The base layer to put back where the adapter was: as it was found, unless merged. The adapter is done for."""
        return self.base_layer

    def file_names(self) -> dict[str, str]:
        """Own tensor name -> the name that the file format gives it, relative to this module."""
        own = [name for name, _ in self.named_parameters(recurse=False)]
        if self.kind == "embedding":
            return {name: name.replace("lora_", "lora_embedding_") for name in own}
        return {name: f"{name}.weight" for name in own}

    def file_tensors(self) -> dict[str, Tensor]:
        """Name in the file -> tensor, detached, for saving and for the shapes that loading needs."""
        return {theirs: getattr(self, own).detach() for own, theirs in self.file_names().items()}

    @torch.no_grad()
    def load_file_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `file_tensors` of another adapter, of the same shapes, were."""
        for name, own in self.file_tensors().items():
            own.copy_(tensors[name])

    def shared_file_tensors(self) -> dict[str, Tensor]:
        """Whole key in the file -> tensor that all layers share. A file may hold them; we do not write them."""
        return {}

    @classmethod
    def layer_settings(cls, layers: Mapping[str, Adapter]) -> dict[str, Any]:
        """Settings in PEFT's config that say something of single layers, for `use_layer_settings` to read."""
        return {}

    def use_layer_settings(self, settings: Mapping[str, Any], name: str, fresh: bool) -> None:
        """Take over what PEFT's config says of this layer, before its tensors are loaded. Parameters may be replaced
        only if the adapter is fresh: else an optimizer may hold them.
        """

    def plain_lora(self) -> Adapter | None:
        """The plain LoRA that files hold in place of this layer; None if they hold the layer itself."""
        return None

    def extra_repr(self) -> str:
        used = [f for f in ("rank", "alpha") if f in self.peft_fields.values() or self.peft_type is None]
        settings = [f"{field}={getattr(self.config, field):g}" for field in used]
        return ", ".join([f"in={self.in_features}, out={self.out_features}", *settings, f"merged={self.merged}"])
