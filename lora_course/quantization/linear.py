"""A frozen base layer in 4 or 8 bits, for adapters to stand on: QLoRA (Dettmers et al. 2023, arXiv:2305.14314).

    h = dequantize(codes) x + b + s B A x          their equation 5; codes and b are frozen, A and B are trained

The weight is made anew for every forward pass, and once more for every backward pass, so that for all layers together
there is only ever one whole weight. Linear and transformers' Conv1D are stored alike, as (out, in) cut into blocks.
To adapters a quantized layer is a layer of the kind that it replaces, whose `weight` can be read but not written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_course.adapters.base import LayerKind, layer_kind, weight_view
from lora_course.products import mm
from lora_course.quantization.double_quantization import QuantizedAbsmax, dequantize_absmax, quantize_absmax
from lora_course.quantization.int8 import Int8, dequantize_int8, quantize_int8
from lora_course.quantization.nf4 import NF4, dequantize_nf4, quantize_nf4


class QuantizedLayer(nn.Module):
    """What stands in place of a Linear or Conv1D. A subclass says how a weight becomes tensors and back.

    layer: nn.Linear or Conv1D, left as it is; the bias is shared and frozen.
    weight: (out, in), what to store in place of the layer's own.

    The tensors are buffers: they are saved, copied and moved like others. `.to(dtype)` changes what the weight is
    dequantized to, never the tensors, which would lose precision for nothing.

    Raises TypeError for another layer, ValueError for a weight with NaN or infinity.
    """

    format: ClassVar[str]

    def __init__(self, layer: nn.Module, weight: Tensor | None = None):
        super().__init__()
        if layer_kind(layer) not in ("linear", "conv1d") or isinstance(layer, QuantizedLayer):
            raise TypeError(f"only Linear and Conv1D layers can be quantized, not {type(layer).__name__}")
        weight = weight_view(layer) if weight is None else weight
        self.stands_for: LayerKind = layer_kind(layer)
        self.out_features, self.in_features = weight.shape
        self.dtype = layer.weight.dtype
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)
        with torch.no_grad():
            for name, tensor in self.pack(weight.detach()).items():
                self.register_buffer(name, tensor)

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """weight: (out, in) -> name -> tensor."""
        raise NotImplementedError

    def unpack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `pack`, up to what quantization loses: (out, in) in `self.dtype`."""
        raise NotImplementedError

    def packed(self) -> dict[str, Tensor]:
        """Name -> the tensors that the weight is stored in."""
        return dict(self.named_buffers(recurse=False))

    def packed_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.packed().values())

    def dense(self) -> Tensor:
        """The weight, (out, in), in `self.dtype`: a new tensor."""
        return self.unpack(self.packed())

    @property
    def weight(self) -> Tensor:
        """The weight as the replaced layer had it, Conv1D's (in, out): a copy that nothing is read back from."""
        return self.dense() if self.stands_for == "linear" else self.dense().T

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in); returns (..., out)."""
        return QuantizedMatmul.apply(x, self.bias, self)

    @torch.no_grad()
    def kept_of(self, delta: Tensor) -> float:
        """The cosine between a change of the weight, (out, in), and what is left of it after quantizing the sum: 1 if
        the change survives, near 0 if rounding swallows it.
        """
        W = self.dense().float()
        left = self.unpack(self.pack(W + delta.float())).float() - W
        return float(F.cosine_similarity(left.flatten(), delta.float().flatten(), dim=0))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLayer:
        before = self.packed()
        super()._apply(fn, recurse)
        for name, tensor in self.packed().items():
            if tensor.dtype != before[name].dtype:
                setattr(self, name, before[name].to(tensor.device))
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=next(iter(before.values())).device)).dtype
        return self

    def extra_repr(self) -> str:
        kind = "Conv1D" if self.stands_for == "conv1d" else "Linear"
        bits = 8 * self.packed_bytes() / (self.in_features * self.out_features)
        return f"{kind}, in={self.in_features}, out={self.out_features}, {bits:.2f} bits a weight"


class QuantizedMatmul(torch.autograd.Function):
    """x W^T + b for a W that exists only while it is multiplied by. Saves no tensor for the backward pass.

    With g the gradient of the result: dx = g W, with W dequantized again, and db the sum of g.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: QuantizedLayer) -> Tensor:
        ctx.layer = layer
        h = mm(x.reshape(-1, x.shape[-1]), layer.dense().T, bias)
        return h.view(*x.shape[:-1], layer.out_features)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        dx = db = None
        if ctx.needs_input_grad[0]:
            W = ctx.layer.dense().to(g.dtype)  # under autocast g is in half precision
            dx = mm(g.reshape(-1, W.shape[0]), W).view(*g.shape[:-1], W.shape[1])
        if ctx.needs_input_grad[1]:
            db = g.reshape(-1, g.shape[-1]).sum(0)
        return dx, db, None


class NF4Layer(QuantizedLayer):
    """4-bit NormalFloat in blocks of 64 with double quantization: 4.13 bits a weight."""

    format = "nf4"

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        quantized = quantize_nf4(weight)
        absmax = quantize_absmax(quantized.absmax)
        return {"codes": quantized.codes, "absmax": absmax.codes, "second": absmax.second, "mean": absmax.mean}

    def unpack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        absmax = dequantize_absmax(QuantizedAbsmax(tensors["absmax"], tensors["second"], tensors["mean"]))
        shape = torch.Size((self.out_features, self.in_features))
        return dequantize_nf4(NF4(tensors["codes"], absmax, shape, self.dtype))


class Int8Layer(QuantizedLayer):
    """8 bits with one absmax for each output: 8 + 32 / in bits a weight."""

    format = "int8"

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        quantized = quantize_int8(weight)
        return {"codes": quantized.codes, "absmax": quantized.absmax}

    def unpack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return dequantize_int8(Int8(tensors["codes"], tensors["absmax"], self.dtype))
