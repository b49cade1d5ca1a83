"""Ours against bitsandbytes on the CPU: codes, absmax and dequantized values bit for bit."""

import pytest
import torch

from lora_course.quantization import dequantize_int8, dequantize_nf4, quantize_int8, quantize_nf4
from lora_course.quantization.double_quantization import dequantize_absmax, quantize_absmax
from lora_course.quantization.nf4 import VALUES

pytest.importorskip(
    "bitsandbytes", reason="bitsandbytes is not installed: it is only an oracle (pip install bitsandbytes)"
)
import bitsandbytes.functional as theirs

DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(64, 128), (96, 256), (96, 224), (384, 1536), (7, 64), (3, 32)]  # the last ends in half a block


def weight(shape, dtype, seed=0):
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(shape, generator=g)
    W.view(-1)[:: shape[1] + 3] *= 20  # outliers, as trained weights have
    return W.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block", [64, 128])
def test_nf4(shape, dtype, block):
    W = weight(shape, dtype)
    packed, state = theirs.quantize_4bit(W, blocksize=block, quant_type="nf4", compress_statistics=False)
    q = quantize_nf4(W, block)
    assert torch.equal(q.codes, packed.view(-1)) and torch.equal(q.absmax, state.absmax.view(-1))
    if shape[1] % block == 0:  # in other rows bitsandbytes 0.50.2 takes the absmax of a wrong block on the CPU
        back = theirs.dequantize_4bit(packed, state)
        assert back.dtype == dtype and torch.equal(dequantize_nf4(q), back)


def test_nf4_halfway_between_two_values():
    """At each midpoint of the table and one float32 to either side, where another way to round shows."""
    middle = (VALUES[:-1] + VALUES[1:]) / 2
    infinity = torch.full_like(middle, torch.inf)
    near = torch.stack([middle.nextafter(-infinity), middle, middle.nextafter(infinity)])  # (3, 15)
    for scale in (1.0, 2.1496641635894775, 0.0217):  # the absmax of the block, its last entry
        W = torch.cat([near.view(-1) * scale, torch.full((19,), scale)])  # (64,)
        packed, _ = theirs.quantize_4bit(W, blocksize=64, quant_type="nf4", compress_statistics=False)
        assert torch.equal(quantize_nf4(W).codes, packed.view(-1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_double_quantization(dtype):
    W = weight((512, 1024), dtype)
    _, state = theirs.quantize_4bit(W, blocksize=64, quant_type="nf4", compress_statistics=True)
    absmax = quantize_nf4(W).absmax
    q = quantize_absmax(absmax)
    apart = (q.codes.int() - state.absmax.view(-1).int()).abs()
    assert apart.max() <= 1 and (apart > 0).float().mean() < 0.01
    assert torch.equal(q.mean, state.offset) and torch.equal(q.second, state.state2.absmax.view(-1))
    whole = theirs.dequantize_blockwise(state.absmax, state.state2) + state.offset
    same = (apart == 0) & (q.codes > 0)  # bitsandbytes may put -1 in place of its table's lowest value
    torch.testing.assert_close(dequantize_absmax(q)[same], whole.view(-1)[same], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_int8_vectorwise(dtype):
    W = weight((96, 200), dtype)
    codes, stats, _ = theirs.int8_vectorwise_quant(W.clone())
    q = quantize_int8(W)
    assert torch.equal(q.codes, codes) and torch.equal(q.absmax.view(-1), stats.view(-1))
    assert torch.equal(dequantize_int8(q, torch.float32), theirs.int8_vectorwise_dequant(codes, stats))
