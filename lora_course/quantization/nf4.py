"""NF4, the 4-bit NormalFloat of QLoRA (Dettmers et al. 2023, arXiv:2305.14314, section 3 and appendix E).

    quantize     blocks of 64; absmax a block; x / absmax -> index of the nearest of 16 values; two indices a byte
    dequantize   value[index] * absmax

The values are quantiles of a normal distribution, so that each is used about equally often by weights that are normal,
as trained weights nearly are; 0 is one of them. 4 bits a weight, and 32 / 64 = 0.5 more for the absmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_course.quantization.blocks import check_block, finite_float32, nearest, scaled_blocks

# QLoRA, appendix E: 7 quantiles below zero, zero, 8 above, divided by the largest.
VALUES = torch.tensor(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ]
)
PAIRS = torch.stack([VALUES.repeat_interleave(16), VALUES.repeat(16)], dim=1)  # (256, 2): both halves of each byte
WORDS = PAIRS.view(torch.float64).view(-1)  # (256,): a pair as one 64-bit word, which is only ever copied
CHUNK = 2**20  # entries dequantized at a time, 4 MiB: they stay in the processor's cache between two passes


@dataclass(frozen=True)
class NF4:
    """A tensor in 4 bits.

    codes: (ceil(n / 2),) uint8; entry 2 i in the high half of byte i, entry 2 i + 1 in the low half.
    absmax: (ceil(n / block),) float32.
    shape, dtype: of the tensor it was.  block: entries that share an absmax.
    """

    codes: Tensor
    absmax: Tensor
    shape: torch.Size
    dtype: torch.dtype
    block: int = 64

    @property
    def bytes(self) -> int:
        return self.codes.nbytes + self.absmax.nbytes


def quantize_nf4(x: Tensor, block: int = 64) -> NF4:
    """`x`, of any shape and size, in NF4. Block by block through `x` flattened; the last block may be shorter.

    The distance of an entry from its dequantized value is at most 0.152 absmax (half the widest gap of the table).

    Raises TypeError for a tensor that is not floating point, ValueError for NaN or infinity or an odd block.
    """
    check_block(block)
    scaled, absmax = scaled_blocks(finite_float32(x), block)
    index = nearest(scaled.view(-1), VALUES.to(x.device)).to(torch.uint8)
    codes = (index[::2] << 4) | index[1::2]  # block is even, so there are as many
    return NF4(codes[: (x.numel() + 1) // 2].clone(), absmax, x.shape, x.dtype, block)


def dequantize_nf4(quantized: NF4, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor of `quantized.shape` that the codes stand for, in `dtype` (by default the one it had).

    The product is taken in float32 and rounded once. Raises ValueError if codes or absmax have another size than
    the shape asks for.
    """
    n, block = quantized.shape.numel(), quantized.block
    codes, absmax = quantized.codes, quantized.absmax
    if codes.numel() != (n + 1) // 2 or absmax.numel() != -(n // -block):
        raise ValueError(
            f"{codes.numel()} bytes of codes and {absmax.numel()} absmax do not make {n} entries in blocks of {block}"
        )
    dtype = dtype or quantized.dtype
    fits = n > 0 and n % block == 0 and codes.device.type == "cpu" and not torch.compiler.is_compiling()
    flat = _in_chunks(codes, absmax, block, dtype) if fits else _at_once(codes, absmax, block, n).to(dtype)
    return flat.view(quantized.shape)


def _at_once(codes: Tensor, absmax: Tensor, block: int, n: int) -> Tensor:
    """(n,) float32. One lookup of all pairs, one product: for any device and size, and for compilers to fuse."""
    pairs = F.embedding(codes.to(torch.int32), PAIRS.to(codes.device))  # (bytes, 2)
    padded = F.pad(pairs.view(-1)[:n], (0, -n % block))
    return (padded.view(-1, block) * absmax.unsqueeze(1)).view(-1)[:n]


def _in_chunks(codes: Tensor, absmax: Tensor, block: int, dtype: torch.dtype) -> Tensor:
    """The same numbers, fast on a CPU: (n,) in `dtype`, for n > 0 a multiple of `block`."""
    n, chunk = 2 * codes.numel(), max(1, CHUNK // block) * block
    out = torch.empty(n, dtype=dtype)
    if n <= chunk and dtype == torch.float32:
        _fill(out, codes, absmax, block)
        return out
    parts = out.split(chunk), codes.split(chunk // 2), absmax.split(chunk // block)
    for here, packed, scale in zip(*parts, strict=True):
        values = here if dtype == torch.float32 else torch.empty(len(here))
        _fill(values, packed, scale, block)
        if values is not here:
            here.copy_(values)
    return out


def _fill(out: Tensor, codes: Tensor, absmax: Tensor, block: int) -> None:
    """Write the values into `out`. Both values of a byte are copied as one word, out of a table of 256."""
    words = out.view(torch.float64)
    if torch.get_num_threads() == 1:  # `index_select` is faster, and takes no more
        torch.index_select(WORDS, 0, codes.int(), out=words)
    else:
        # `gather` shares rows between threads. An index is as long as a word, so the indices need no memory of their
        # own: each is overwritten once it has been read.
        rows = codes.view(-1, gcd(codes.numel(), 1024))
        index = words.view(torch.int64).view(rows.shape).copy_(rows)
        torch.gather(WORDS.expand(len(rows), -1), 1, index, out=index.view(torch.float64))
    out.view(-1, block).mul_(absmax.unsqueeze(1))
