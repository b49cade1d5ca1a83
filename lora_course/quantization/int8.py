"""int8 by absmax: the simplest quantization (Dettmers et al. 2022, LLM.int8(), arXiv:2208.07339, section 2).

    code = round(127 x / absmax)            in -127 .. 127
    x'   = code * absmax / 127

One absmax for the whole tensor lets one large entry make the steps coarse for all. Vectorwise, each row has its own:
one more float32 a row, and an outlier spoils its row only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lora_course.quantization.blocks import TINY, finite_float32


@dataclass(frozen=True)
class Int8:
    """A tensor in 8 bits.

    codes: int8, of the tensor's shape.
    absmax: float32, (..., 1), one a row, or of shape () for the whole tensor.
    dtype: of the tensor it was.
    """

    codes: Tensor
    absmax: Tensor
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return self.codes.nbytes + self.absmax.nbytes


def quantize_int8(x: Tensor, vectorwise: bool = True) -> Int8:
    """`x` in int8 with one absmax a row (the last dimension), or with one for all.

    The distance of an entry from its dequantized value is at most absmax / 254. Rows of zeros stay zeros; so does,
    since 127 / absmax must be finite, what is below 1.5e-36.

    Raises TypeError for a tensor that is not floating point, ValueError for NaN or infinity.
    """
    values = finite_float32(x).view(x.shape)
    by_row = vectorwise and x.dim() > 0
    if not x.numel():
        absmax = values.new_zeros((*x.shape[:-1], 1) if by_row else ())
    else:
        absmax = values.abs().amax(dim=-1, keepdim=True) if by_row else values.abs().amax()
    codes = torch.round(values * torch.where(absmax >= 127 * TINY, 127.0 / absmax, 0)).to(torch.int8)
    return Int8(codes, absmax, x.dtype)


def dequantize_int8(quantized: Int8, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor that the codes stand for, in `dtype` (by default the one it had). Products are taken in float32."""
    return (quantized.codes * quantized.absmax).mul_(1 / 127).to(dtype or quantized.dtype)
