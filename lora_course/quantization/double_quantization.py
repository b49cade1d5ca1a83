"""Double quantization: the absmax of NF4 blocks, quantized too (QLoRA, arXiv:2305.14314, section 3).

    absmax = mean + second * value[code]        one 8-bit code an absmax, one float32 `second` for 256 of them

So the 32 / 64 = 0.5 bits a weight that absmax costs become 8 / 64 + 32 / (64 * 256) = 0.127. The mean is subtracted
because absmax are all positive, and the 256 values lie on both sides of zero: dense near it, where most differences
are (Dettmers 2015, arXiv:1511.04561, dynamic tree quantization).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lora_course.quantization.blocks import finite_float32, nearest, scaled_blocks

BLOCK = 256


def dynamic_values() -> Tensor:
    """The 256 values of signed 8-bit dynamic tree quantization, ascending, (256,) float32.

    0, 1, and for each of seven powers of ten 1e-6 ... 1 the middles of 1, 2, 4 ... 64 equal parts of 0.1 ... 1 times
    it, with both signs.
    """
    positive = []
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        positive.append((edges[:-1] + edges[1:]) / 2 * 10.0 ** (i - 6))
    half = torch.cat(positive)  # (127,)
    return torch.cat([-half, half, torch.tensor([0.0, 1.0])]).sort().values


VALUES = dynamic_values()


@dataclass(frozen=True)
class QuantizedAbsmax:
    """codes: (n,) uint8.  second: (ceil(n / 256),) float32, the absmax of the absmax.  mean: () float32."""

    codes: Tensor
    second: Tensor
    mean: Tensor


def quantize_absmax(absmax: Tensor) -> QuantizedAbsmax:
    """absmax: (n,), positive. Raises ValueError if it holds NaN or infinity."""
    flat = finite_float32(absmax)
    mean = flat.mean() if len(flat) else flat.new_zeros(())
    scaled, second = scaled_blocks(flat - mean, BLOCK)
    codes = nearest(scaled.view(-1), VALUES.to(flat.device)).to(torch.uint8)
    return QuantizedAbsmax(codes[: len(flat)].clone(), second, mean)


def dequantize_absmax(quantized: QuantizedAbsmax) -> Tensor:
    """(n,) float32, never negative: rounding may push an absmax of almost 0 below it, which would flip its block."""
    codes, n = quantized.codes, quantized.codes.numel()
    values = VALUES.to(codes.device).index_select(0, codes.int())
    second = quantized.second.repeat_interleave(BLOCK)[:n]
    return values.mul_(second).add_(quantized.mean).clamp_min_(0)
