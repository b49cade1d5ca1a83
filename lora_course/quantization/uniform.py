"""Equal steps in 2 to 8 bits, really packed: to see what bits and blocks buy before the clever formats.

    code = round(x / absmax * m) + m,   m = 2^(bits - 1) - 1        in 0 .. 2 m
    x'   = (code - m) / m * absmax

Zero has a code of its own, so one of the 2^bits codes stays unused. Codes lie bit beside bit, high bits first, over
the ends of bytes: 3 bits take 3 bits, where a "3-bit" tensor of int8 takes 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_course.quantization.blocks import check_block, finite_float32, scaled_blocks


@dataclass(frozen=True)
class Uniform:
    """codes: (ceil(n bits / 8),) uint8.  absmax: (ceil(n / block),) float32.  shape, dtype: of the tensor it was."""

    codes: Tensor
    absmax: Tensor
    shape: torch.Size
    dtype: torch.dtype
    bits: int
    block: int

    @property
    def bytes(self) -> int:
        return self.codes.nbytes + self.absmax.nbytes


def quantize_uniform(x: Tensor, bits: int, block: int = 64) -> Uniform:
    """`x` in equal steps of absmax / (2^(bits - 1) - 1), so that no entry moves by more than half a step.

    Raises TypeError for a tensor that is not floating point, ValueError for NaN or infinity, an odd block, or bits
    outside 2 .. 8.
    """
    check_block(block)
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ValueError(f"bits must be a whole number from 2 to 8, got {bits!r}")
    m = 2 ** (bits - 1) - 1
    scaled, absmax = scaled_blocks(finite_float32(x), block)
    codes = (torch.round(scaled.view(-1)[: x.numel()] * m) + m).to(torch.uint8)
    return Uniform(pack(codes, bits), absmax, x.shape, x.dtype, bits, block)


def dequantize_uniform(quantized: Uniform, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor that the codes stand for, in `dtype` (by default the one it had)."""
    n, m = prod(quantized.shape), 2 ** (quantized.bits - 1) - 1
    steps = unpack(quantized.codes, quantized.bits, n).to(torch.float32) - m
    padded = F.pad(steps / m, (0, -n % quantized.block)).view(-1, quantized.block)
    flat = (padded * quantized.absmax.unsqueeze(1)).view(-1)[:n]
    return flat.to(dtype or quantized.dtype).view(quantized.shape)


def pack(codes: Tensor, bits: int) -> Tensor:
    """(n,) uint8 below 2^bits -> (ceil(n bits / 8),) uint8."""
    stream = ((codes.unsqueeze(1) >> _places(bits, codes)) & 1).view(-1)  # (n bits,)
    octets = F.pad(stream, (0, -len(stream) % 8)).view(-1, 8)
    return (octets << _places(8, codes)).sum(dim=1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, n: int) -> Tensor:
    """The inverse of `pack`: (n,) uint8."""
    stream = ((packed.unsqueeze(1) >> _places(8, packed)) & 1).view(-1)[: n * bits]
    return (stream.view(n, bits) << _places(bits, packed)).sum(dim=1, dtype=torch.uint8)


def _places(bits: int, like: Tensor) -> Tensor:
    """bits - 1 ... 0."""
    return torch.arange(bits - 1, -1, -1, dtype=torch.uint8, device=like.device)
