"""Quantize the layers of a model in place, so that adapters can stand on them.

    quantize_base(model)        Linear and Conv1D become NF4Layer or Int8Layer
    inject(model, config)       adapters over them, as over any layer: QLoRA
    dequantize_base(model)      ordinary layers again, with the weights that the codes stand for
From then on the base cannot be trained or merged into; what is left to train is what `inject` adds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lora_course.adapters.base import layer_kind, refuse_shared_weights
from lora_course.adapters.config import ALL_LINEAR, AdapterConfig
from lora_course.adapters.inject import adapters, find_targets
from lora_course.quantization.linear import Int8Layer, NF4Layer, QuantizedLayer

FORMATS = {layer.format: layer for layer in (NF4Layer, Int8Layer)}


def quantize_base(
    model: nn.Module,
    format: str = "nf4",
    target_modules: str | Sequence[str] = ALL_LINEAR,
    layer: type[QuantizedLayer] | None = None,
) -> nn.Module:
    """Replace weights by their quantized form, in place; returns `model`. Call it before `inject`.

    format: "nf4" (4.13 bits a weight: blocks of 64, double quantization) or "int8" (one absmax an output).
    target_modules: name suffixes, or "all-linear": every Linear and Conv1D but the output embedding and
    classification heads, which are small, sensitive or trained.
    layer: your own class, called as layer(base_layer); by default the one of `format`.

    The quantized layers are frozen; other parameters stay as they are. `parameter_report` counts the packed bytes.

    Raises ValueError, before anything is changed, if the model has adapters, a layer is quantized already, a name
    matches nothing, or a weight holds NaN or infinity, is shared with another layer, or belongs to a subclass that
    computes something else than its product with x.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; there are {', '.join(map(repr, FORMATS))}")
    if adapters(model):
        raise ValueError("this model has adapters: quantize a plain model, then inject (or eject(model) first)")
    layer = layer or FORMATS[format]
    targets = find_targets(model, AdapterConfig(target_modules=target_modules))
    for name, base in targets.items():
        if isinstance(base, QuantizedLayer):
            raise ValueError(f"{name!r} is quantized already, to {base.format}: quantizing twice only loses more")
        if layer_kind(base) == "embedding":
            raise ValueError(f"{name!r} is an embedding: only Linear and Conv1D layers are quantized")
        plain = next(c for c in type(base).__mro__ if c is nn.Linear or c.__name__ == "Conv1D")
        if type(base).forward is not plain.forward:
            raise ValueError(f"{name!r} is a {type(base).__name__} with a forward of its own, which would be lost")
    refuse_shared_weights(model, targets, "quantization")
    quantized = {}
    for name, base in targets.items():
        if base not in quantized:
            try:
                quantized[base] = layer(base).train(base.training)
            except ValueError as error:
                raise ValueError(f"{name!r}: {error}") from None
    for name, base in targets.items():
        model.set_submodule(name, quantized[base])
    return model


@torch.no_grad()
def dequantize_base(model: nn.Module) -> nn.Module:
    """Replace quantized layers by ordinary ones with the same outputs, in place; returns `model`.

    The weights are frozen, and keep what quantization lost. Adapters stay, and can then be merged.
    """
    found = {n: m for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, QuantizedLayer)}
    if not found:
        raise ValueError(f"{type(model).__name__} has no quantized layer")
    dense = {layer: _dense(layer) for layer in dict.fromkeys(found.values())}
    for name, layer in found.items():
        model.set_submodule(name, dense[layer])
    return model


def _dense(layer: QuantizedLayer) -> nn.Module:
    weight = nn.Parameter(layer.weight.contiguous(), requires_grad=False)
    if layer.stands_for == "linear":
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    else:
        from transformers.pytorch_utils import Conv1D  # seconds to import, and here only if it was already

        with torch.device("meta"):
            plain = Conv1D(layer.out_features, layer.in_features)
    plain.weight, plain.bias = weight, layer.bias
    return plain.train(layer.training)
