"""Quantized layers for a plan: the package's own, with tensors of the right shapes in place of what they would pack.

Fake tensors have no contents to quantize, and a loop over chunks of a weight would take longer than all the rest of a
plan. So packing and unpacking only allocate what they return, and what is there beside it: absmax in float32, and where
the weight is not in float32 a chunk that is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lora_course.quantization.double_quantization import BLOCK as ABSMAX_BLOCK
from lora_course.quantization.linear import Int8Layer, NF4Layer, QuantizedLayer
from lora_course.quantization.nf4 import CHUNK, NF4


class PlannedNF4Double(NF4Layer):
    """4 bits, 8 for the absmax of a block, and a float32 for 256 of those: 4.13 bits a weight."""

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        blocks = -(weight.numel() // -NF4.block)
        return {
            "codes": torch.empty((weight.numel() + 1) // 2, dtype=torch.uint8),
            "absmax": torch.empty(blocks, dtype=torch.uint8),
            "second": torch.empty(-(blocks // -ABSMAX_BLOCK)),
            "mean": torch.empty(()),
        }

    def unpack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        absmax = torch.empty(tensors["absmax"].shape)  # there until the weight is
        weight = self.filled()
        del absmax
        return weight

    def filled(self) -> Tensor:
        weight = torch.empty(self.out_features, self.in_features, dtype=self.dtype)
        if self.dtype != torch.float32:
            torch.empty(min(weight.numel(), CHUNK))  # rounded when its numbers are complete
        return weight


class PlannedNF4(PlannedNF4Double):
    """4 bits and a float32 for the absmax of a block: 4.5 bits a weight."""

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        packed = super().pack(weight)
        return {"codes": packed["codes"], "absmax": torch.empty(packed["absmax"].shape)}

    def unpack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return self.filled()


class PlannedInt8(Int8Layer):
    """8 bits, and a float32 for each output. It is unpacked by the package's own code."""

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        return {"codes": torch.empty(weight.shape, dtype=torch.int8), "absmax": torch.empty(len(weight), 1)}


QUANTIZED: dict[str, type[QuantizedLayer]] = {
    "nf4": PlannedNF4,
    "nf4-double": PlannedNF4Double,
    "int8": PlannedInt8,
}
