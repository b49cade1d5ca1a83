"""What the block-wise formats share: cut a tensor into blocks, scale each by its largest entry, round to a table.

    x = [0.2 -0.4 0.1 | 3.0 -1.5 0.0]       blocks of 3
    absmax = [0.4, 3.0]                     one float32 a block
    x / absmax = [0.5 -1 0.25 | 1 -0.5 0]   in [-1, 1], each entry then replaced by the nearest value of a table
One outlier spoils the 64 values beside it, not the whole matrix: that is why there are blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = torch.finfo(torch.float32).tiny  # the smallest absmax with a finite reciprocal


def finite_float32(x: Tensor) -> Tensor:
    """`x`, flat, as float32. float64 is rounded; half precision fits.

    Raises TypeError for anything but real floating point, ValueError for NaN or infinity (also what is too large for
    float32): one of them would be the absmax of its block, and wipe out the others.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"only tensors of real floating-point numbers can be quantized, got {kind}")
    flat = x.detach().reshape(-1).to(torch.float32)
    if not flat.is_meta and not torch.isfinite(flat).all():
        raise ValueError(f"cannot quantize {int((~torch.isfinite(flat)).sum())} of {flat.numel()} entries: NaN or inf")
    return flat


def scaled_blocks(flat: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Scaled entries in [-1, 1], (blocks, block), and absmax, (blocks,). The last block is filled up with zeros.

    flat: (n,) float32, finite. A block without a normal number in it (all entries below 1.2e-38) becomes zeros.
    """
    blocks = F.pad(flat, (0, -len(flat) % block)).view(-1, block)
    absmax = blocks.abs().amax(dim=1) if len(blocks) else flat.new_empty(0)
    inverse = torch.where(absmax >= TINY, 1 / absmax, 0)
    return (blocks * inverse.unsqueeze(1)).clamp_(-1, 1), absmax


def check_block(block: int) -> None:
    """Raise ValueError unless `block` is an even number, so that the two codes of a byte lie in one block."""
    if isinstance(block, bool) or not isinstance(block, int) or block < 2 or block % 2:
        raise ValueError(f"block must be an even number of entries, got {block!r}; QLoRA takes 64")


def nearest(x: Tensor, table: Tensor) -> Tensor:
    """Index of the value in `table` (ascending) nearest to each entry of `x`, the lower one halfway between two.

    x: (n,). What decides are the midpoints of the table in its own dtype, as in bitsandbytes.
    """
    return torch.bucketize(x, (table[:-1] + table[1:]) / 2, out_int32=True)
