"""Checks of lesson 10: int8 by rows, blocks, NF4 codes two a byte, bits a weight, a frozen layer without its weight."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lora_course.quantization.blocks import nearest
from lora_course.quantization.blocks import scaled_blocks as package_blocks
from lora_course.quantization.int8 import quantize_int8
from lora_course.quantization.nf4 import VALUES
from lora_course.teaching.compare import Wrong, diagnose, expect_close, expect_equal, expect_parts
from lora_course.teaching.exercises import exercise


class NoNaN(TorchDispatchMode):
    """Raises Wrong when an operation makes NaN. Converted to an integer, it would pass for some number."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point() and bool(torch.isnan(result).any()):
            raise Wrong(
                "no NaN is made on the way",
                yours=f"NaN from {function.overloadpacket.__name__}",
                expected="zeros stay zeros",
                likely="0 / 0: where everything is zero, absmax is zero too. Divide by 1 there, or by a tiny number",
            )
        return result


def quantize_rows(W: Tensor) -> tuple[Tensor, Tensor]:
    quantized = quantize_int8(W)
    return quantized.codes, quantized.absmax / 127


@exercise(
    "10.1",
    title="Eight bits, row by row",
    reference=quantize_rows,
    verified="codes are int8, codes * step is within half a step of every weight, an outlier coarsens its own row "
    "only, and rows of zeros stay zeros",
    minutes=15,
    difficulty=2,
)
def check_quantize_rows(answer):
    for n_out, n_in in ((6, 10), (7, 5)):
        W = torch.randn(n_out, n_in)
        W[1, 2], W[3], W[4] = -40.0, W[3] / 1000, 0.0
        before, absmax = W.clone(), W.abs().amax(1, keepdim=True)
        step = torch.where(absmax > 0, absmax / 127, 1)
        expected = torch.round(W / step) * step
        with NoNaN():
            result = answer(W)
        expect_parts("quantize_rows returns two tensors", result, "codes, step")
        codes, yours = result
        expect_close("W stays as it was", W, before, "W was changed in place: make new tensors")
        likely = "end with .to(torch.int8): as float32 the codes take four bytes each, and nothing is saved"
        expect_equal("the codes are int8", str(codes.dtype), "torch.int8", likely)
        expect_equal("the shape of the codes", tuple(codes.shape), (n_out, n_in))
        likely = "one step a row, kept as a column: keepdim=True"
        expect_equal("the shape of the steps", tuple(yours.shape), (n_out, 1), likely)

        def stands_for(amount: Tensor, levels: float = 127, rounded: Callable = torch.round, W: Tensor = W) -> Tensor:
            s = torch.where(amount > 0, amount / levels, 1)
            return rounded(W / s).to(torch.int32).to(torch.int8) * s

        likely = diagnose(
            codes.double() * yours,
            {
                "one absmax for the whole matrix: each row has its own": stands_for(absmax.amax()),
                "an absmax for each column: a row is what belongs to one output, so reduce over dim 1": stands_for(
                    W.abs().amax(0, keepdim=True)
                ),
                "`.to(torch.int8)` cuts off towards zero: round first": stands_for(absmax, rounded=torch.trunc),
                "the largest entry gives code 128, and int8 ends at 127: it wraps around to -128": stands_for(
                    absmax, 128
                ),
                "the largest entry is not the largest absolute one: negative weights overflow": stands_for(
                    W.amax(1, keepdim=True)
                ),
                "that is absmax, not the step: codes * step must be the weight again": 127 * expected,
                "that is 1 / step: codes * step must be the weight again": torch.round(W / step) / step,
            },
        )
        off = ((codes.double() * yours - expected).abs() > 1e-6).any(1).nonzero().flatten().tolist()
        if likely is None and off == [3]:
            likely = "row 3 has small weights and needs a small step: what keeps a step from 0 must be smaller still"
        expect_close("codes * step is the weight, to half a step", codes.double() * yours, expected, likely, atol=1e-6)


def scale_blocks(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    return package_blocks(x.flatten().float(), block)


@exercise(
    "10.2",
    title="Blocks",
    reference=scale_blocks,
    verified="entries in [-1, 1] and one absmax a block, for tensors of one and two dimensions, with a shorter last "
    "block and a block of zeros",
    minutes=10,
    difficulty=1,
)
def check_scale_blocks(answer):
    block = 8
    for shape in ((29,), (5, 7), (4, 10)):
        x = torch.randn(shape)
        x.view(-1)[8:16], x.view(-1)[3] = 0.0, -9.0  # a block of zeros; one whose largest entry is negative
        before, n = x.clone(), x.numel()
        blocks = F.pad(x.flatten(), (0, -n % block)).view(-1, block)
        absmax = blocks.abs().amax(1)
        divisor = torch.where(absmax > 0, absmax, 1).unsqueeze(1)
        with NoNaN():
            result = answer(x, block)
        expect_parts("scale_blocks returns two tensors", result, "scaled, absmax")
        scaled, yours = result
        expect_close("x stays as it was", x, before, "x was changed in place: make a new tensor")
        likely = f"the last {n % block} entries are a block too: fill it up with zeros" if n % block else None
        expect_equal("the shape of scaled", tuple(scaled.shape), tuple(blocks.shape), likely)
        across = F.pad(x.flatten(), (0, -n % block)).view(block, -1).T
        likely = diagnose(
            yours,
            {
                "the largest entry is not the largest absolute one: take abs first": blocks.amax(1),
                "a block is `block` neighbours: .view(-1, block), not every so many-th entry": across.abs().amax(1),
                "one absmax for all blocks: each has its own": absmax.amax().expand_as(absmax),
            },
            "one number for each block, of shape (blocks,)",
        )
        expect_close("the largest absolute value of each block", yours, absmax, likely)
        likely = diagnose(
            scaled,
            {
                "those are the blocks as they were: divide each by its absmax": blocks,
                "one absmax for all blocks: each has its own": blocks / absmax.amax(),
                "that is multiplied by absmax, not divided": blocks * absmax.unsqueeze(1),
            },
        )
        expect_close("each entry divided by the absmax of its block", scaled, blocks / divisor, likely)


def pack_nf4(scaled: Tensor, table: Tensor) -> Tensor:
    index = nearest(scaled, table)
    return (16 * index[::2] + index[1::2]).to(torch.uint8)


@exercise(
    "10.3",
    title="The nearest of sixteen, two to a byte",
    reference=pack_nf4,
    verified="the index of the nearest value for NF4's table and for another one, the first of each pair in the high "
    "half of its byte, in half as many bytes as there are entries",
    minutes=20,
    difficulty=2,
)
def check_pack_nf4(answer):
    ragged = torch.cat([torch.tensor([-1.0, 1.0]), torch.rand(14) * 1.8 - 0.9]).sort().values
    for table, n in ((VALUES, 40), (ragged, 26)):
        x = torch.cat([torch.rand(n - 3) * 2 - 1, torch.tensor([-1.0, 0.0, 1.0])])
        x = x[torch.randperm(n)]
        index = (x.unsqueeze(1) - table).abs().argmin(1)
        expected = _two_a_byte(index)
        yours = answer(x.clone(), table.clone())
        if isinstance(yours, Tensor) and yours.shape == (n,):
            raise Wrong(
                "two codes share a byte",
                yours=f"{n} bytes for {n} entries",
                expected=f"{n // 2} bytes",
                likely="a code of 4 bits in a byte of its own takes 8: move one of each pair up by four places",
            )
        above = torch.bucketize(x, table)
        lower = torch.where(table[above] == x, above, above - 1)
        likely = diagnose(
            yours,
            {
                "the halves are swapped: the first of each pair belongs into the high half of the byte": _two_a_byte(
                    index.view(-1, 2).flip(1).flatten()
                ),
                "those pair the first half of x with the second: neighbours share a byte": index[: n // 2] * 16
                + index[n // 2 :],
                "that is the next value above, not the nearest: compare both neighbours": _two_a_byte(above),
                "that is the next value below, not the nearest: compare both neighbours": _two_a_byte(lower),
                "those are equal steps: the values of the table do not lie at equal distances": _two_a_byte(
                    torch.round((x + 1) * 7.5).long()
                ),
                "16 values, so one place up is 16: index * 15 makes different pairs share a byte": index[::2] * 15
                + index[1::2],
            },
        )
        expect_close("each byte is 16 * index of the first + index of the second", yours, expected, likely, atol=0)
        likely = "end with .to(torch.uint8): as int64 each byte would take eight"
        expect_equal("the codes are uint8", str(getattr(yours, "dtype", type(yours))), "torch.uint8", likely)


def _two_a_byte(index: Tensor) -> Tensor:
    return index[::2] * 16 + index[1::2]


def bits_a_weight(bits: int, block: int, absmax_block: int | None = None) -> float:
    scale = 32 / block if absmax_block is None else (8 + 32 / absmax_block) / block
    return bits + scale


@exercise(
    "10.4",
    title="What a weight costs",
    reference=bits_a_weight,
    verified="4.5 bits for NF4 in blocks of 64, 4.127 with double quantization, and right for other bits and blocks",
    minutes=10,
    difficulty=1,
)
def check_bits_a_weight(answer):
    for bits, block in ((4, 64), (3, 32), (8, 1024)):
        likely = diagnose(
            answer(bits, block),
            {
                "the absmax is missing: one float32 for each block": bits,
                "an absmax is a float32, 32 bits": bits + 16 / block,
                "32 bits, not 4 bytes: count in bits": bits + 4 / block,
                "that is one absmax a weight: a block shares it": bits + 32,
                "that is in bytes": (bits + 32 / block) / 8,
            },
        )
        expect_close(f"{bits} bits in blocks of {block}", answer(bits, block), bits + 32 / block, likely, 1e-9, 1e-9)
    for bits, block, second in ((4, 64, 256), (3, 32, 128), (2, 128, 64)):
        likely = diagnose(
            answer(bits, block, second),
            {
                "each 256 codes of absmax share one float32 more: it is missing": bits + 8 / block,
                "the second float32 is shared by absmax_block blocks, that is block * absmax_block weights": bits
                + 8 / block
                + 32 / second,
                "the 8-bit code takes the place of the float32; you count both": bits
                + 40 / block
                + 32 / (block * second),
                "absmax_block changes nothing: with it, absmax takes 8 bits and not 32": bits + 32 / block,
                "an absmax is quantized to 8 bits, not to as many as a weight": bits
                + bits / block
                + 32 / (block * second),
            },
        )
        name = f"{bits} bits in blocks of {block}, their absmax in blocks of {second}"
        expected = bits + 8 / block + 32 / (block * second)
        expect_close(name, answer(bits, block, second), expected, likely, 1e-9, 1e-9)


class FrozenLinear(torch.autograd.Function):
    """x W^T for a W that `dequantize` makes anew for each use."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dequantize: Callable[[], Tensor]) -> Tensor:
        ctx.dequantize = dequantize
        return x @ dequantize().T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.dequantize(), None


class Dequantizer:
    """Makes a weight, counts how often, and knows whether a copy that it gave away is still alive."""

    def __init__(self, W: Tensor):
        self.W, self.made = W, []

    def __call__(self) -> Tensor:
        fresh = self.W.clone()
        self.made.append(weakref.ref(fresh))
        return fresh

    def alive(self) -> bool:
        gc.collect()
        return any(ref() is not None for ref in self.made)


@exercise(
    "10.5",
    title="A weight that is never kept",
    reference=FrozenLinear,
    verified="output and gradient of x equal those of the whole weight; between forward and backward no copy of the "
    "weight is alive, whatever the shape of x",
    minutes=20,
    difficulty=3,
)
def check_frozen_linear(answer):
    for shape, n_out in (((4, 9), 9), ((5, 9), 6), ((2, 3, 9), 6), ((9,), 6)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        W = torch.randn(n_out, shape[-1], dtype=torch.float64)
        g = torch.randn(*shape[:-1], n_out, dtype=torch.float64)
        dequantize, sizes = Dequantizer(W), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            y = answer.apply(x, dequantize)
        expected = x @ W.T
        square = n_out == shape[-1]
        wrong = {"W is (out, in): the output is x Wᵀ": x @ W} if square else {}
        expect_close("the output is x Wᵀ", y, expected, diagnose(y, wrong), atol=1e-9)
        if len(sizes) == 1 and sizes[0] == x.numel() and sizes[0] != W.numel():
            raise Wrong(
                "nothing is kept that the backward pass does not need",
                yours="x is saved",
                expected="`dequantize` alone",
                likely="the gradient of x is g W, without x. Only the gradient of W would need x, and W is frozen",
            )
        if sizes and max(sizes) >= W.numel() > x.numel() or dequantize.alive():
            raise Wrong(
                "between forward and backward no whole weight is kept",
                yours="the weight is still alive after the forward pass",
                expected="dequantize again in the backward pass",
                likely="what stands in save_for_backward, or in ctx, lives until the backward pass: one whole weight "
                "a layer, all of them at once. Keep the function `dequantize`, it is tiny",
            )
        before = len(dequantize.made)
        (yours,) = torch.autograd.grad(y, x, g)
        wrong = {"that is g as it came: it must go back through W": g}
        if square:
            wrong["the gradient of x is g W, without transpose"] = g @ W.T
        expect_close("the gradient of x is g W", yours, g @ W, diagnose(yours, wrong), atol=1e-9)
        if len(dequantize.made) == before:
            raise Wrong(
                "the backward pass dequantizes again",
                yours="dequantize was not called in the backward pass",
                expected="one call there",
                likely="a copy of the weight was kept from the forward pass",
            )
