"""The formats alone: tables and codes against their definition written out, error bounds over random shapes, bytes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from lora_course.quantization import dequantize_int8, dequantize_nf4, nf4, quantize_int8, quantize_nf4
from lora_course.quantization.double_quantization import VALUES as DYNAMIC
from lora_course.quantization.double_quantization import QuantizedAbsmax, dequantize_absmax, quantize_absmax
from lora_course.quantization.throughput import throughput
from lora_course.quantization.uniform import dequantize_uniform, pack, quantize_uniform, unpack

TINY = torch.finfo(torch.float32).tiny
HALF_GAP = float((nf4.VALUES[1:] - nf4.VALUES[:-1]).max()) / 2


def tensor(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_nf4_table_is_the_papers():
    """QLoRA's code: quantiles of a normal at probabilities from 0.9677083 inwards, 8 above zero and 7 below."""
    offset = 0.9677083
    above = torch.special.ndtri(torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1])
    table = torch.cat([above, torch.zeros(1, dtype=torch.float64), below]).sort().values
    assert_close(nf4.VALUES.double(), table / table.max(), rtol=0, atol=2e-7)


def nf4_written_out(x, block):
    """Codes and absmax, one block at a time: how many midpoints between two values an entry lies above."""
    middles = (nf4.VALUES[1:] + nf4.VALUES[:-1]) / 2
    codes, absmax = [], []
    for part in x.float().flatten().split(block):
        largest = part.abs().max()
        absmax.append(largest)
        scaled = (part * (1 / largest)).clamp(-1, 1)
        codes += [int((value > middles).sum()) for value in scaled]
    codes += [7] * (len(codes) % 2)  # half a byte is left over: zero
    return torch.tensor([16 * a + b for a, b in zip(codes[::2], codes[1::2], strict=True)]), torch.stack(absmax)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("shape", "block"), [((6, 64), 64), ((5, 37), 64), ((3, 7), 4), ((130,), 64), ((), 64)])
def test_nf4_is_its_definition_bit_for_bit(dtype, shape, block):
    x = tensor(*shape, dtype=dtype)
    q = quantize_nf4(x, block)
    codes, absmax = nf4_written_out(x, block)
    assert q.codes.dtype == torch.uint8 and torch.equal(q.codes.long(), codes)
    assert q.absmax.dtype == torch.float32 and torch.equal(q.absmax, absmax)
    nibbles = torch.stack([codes >> 4, codes & 15], 1).flatten()[: x.numel()]
    values = nf4.VALUES[nibbles] * absmax.repeat_interleave(block)[: x.numel()]
    back = dequantize_nf4(q)
    assert back.dtype == dtype and back.shape == x.shape
    assert torch.equal(back, values.to(dtype).view(shape))


def test_nf4_takes_the_lower_of_two_equally_near():
    """Around each midpoint, where rounded distances in place of a threshold would go another way."""
    middles = (nf4.VALUES[1:] + nf4.VALUES[:-1]) / 2
    near = torch.cat([middles, *(torch.nextafter(middles, torch.full_like(middles, to)) for to in (-2.0, 2.0))])
    x = torch.cat([near, torch.ones(1)])  # absmax 1
    codes, _ = nf4_written_out(x, 64)
    assert torch.equal(quantize_nf4(x).codes.long(), codes)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2], indirect=True)  # the table is read in one of two ways
@pytest.mark.parametrize("n", [64, 64 * 5, 2 * nf4.CHUNK, nf4.CHUNK + 64, nf4.CHUNK - 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_nf4_in_chunks_equals_all_at_once(n, dtype):
    q = quantize_nf4(tensor(n))
    assert torch.equal(dequantize_nf4(q, dtype), nf4._at_once(q.codes, q.absmax, 64, n).to(dtype))


def test_a_block_of_several_chunks():
    block = nf4.CHUNK + 2
    q = quantize_nf4(tensor(2 * block), block)
    assert torch.equal(dequantize_nf4(q), nf4._at_once(q.codes, q.absmax, block, 2 * block))


@pytest.mark.parametrize("size", [(0,), (0, 5), (5, 0)])
def test_empty(size):
    x = torch.empty(size)
    for back in (
        dequantize_nf4(quantize_nf4(x)),
        dequantize_int8(quantize_int8(x)),
        dequantize_int8(quantize_int8(x, vectorwise=False)),
        dequantize_uniform(quantize_uniform(x, 3)),
    ):
        assert back.shape == x.shape and back.dtype == x.dtype
    assert dequantize_absmax(quantize_absmax(torch.empty(0))).shape == (0,)


@pytest.mark.parametrize("value", [0.0, 1e-42])
def test_blocks_of_zeros_and_of_almost_nothing_become_zeros(value):
    """Where 0 / 0 is NaN. The neighbours are not touched."""
    x = tensor(3, 64)
    x[1] = value
    for back in (
        dequantize_nf4(quantize_nf4(x)),
        dequantize_int8(quantize_int8(x)),
        dequantize_uniform(quantize_uniform(x, 4)),
    ):
        assert not back[1].any() and back[0].any() and back[2].any() and torch.isfinite(back).all()
    assert set(quantize_nf4(x).codes[32:64].tolist()) == {0x77}
    nothing = torch.full((2, 3), value)
    assert not dequantize_int8(quantize_int8(nothing, vectorwise=False)).any()
    assert torch.equal(dequantize_absmax(quantize_absmax(torch.zeros(300))), torch.zeros(300))


QUANTIZERS = [
    quantize_nf4,
    quantize_int8,
    lambda x: quantize_int8(x, vectorwise=False),
    lambda x: quantize_uniform(x, 4),
    quantize_absmax,
]


@pytest.mark.parametrize("quantize", QUANTIZERS)
def test_what_is_refused(quantize):
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="cannot quantize 1 of 6 entries: NaN or inf"):
            quantize(torch.tensor([[1.0, 2.0, bad], [0.0, 0.0, 0.0]]))
    with pytest.raises(ValueError, match="NaN or inf"):
        quantize(torch.tensor([1e300], dtype=torch.float64))
    for wrong in (torch.arange(4), torch.ones(2, dtype=torch.complex64), [1.0, 2.0], torch.ones(2) > 0):
        with pytest.raises(TypeError, match="real floating-point"):
            quantize(wrong)


@pytest.mark.parametrize("block", [0, -2, 63, 64.0, True])
def test_blocks_that_are_refused(block):
    for quantize in (quantize_nf4, lambda x, block: quantize_uniform(x, 4, block)):
        with pytest.raises(ValueError, match="even number of entries"):
            quantize(torch.ones(4), block)


def test_codes_that_do_not_fit_are_refused():
    q = quantize_nf4(tensor(3, 64))
    with pytest.raises(ValueError, match="96 bytes of codes and 3 absmax do not make 256 entries in blocks of 64"):
        dequantize_nf4(nf4.NF4(q.codes, q.absmax, torch.Size((4, 64)), q.dtype))
    with pytest.raises(ValueError, match="do not make"):
        dequantize_nf4(nf4.NF4(q.codes, q.absmax, q.shape, q.dtype, block=128))


def test_quantizing_changes_nothing_and_needs_no_layout():
    x = tensor(8, 48).requires_grad_()
    before = x.detach().clone()
    for quantize in QUANTIZERS[:4]:
        quantize(x)
        turned = quantize(x.detach().T)
        assert torch.equal(turned.codes, quantize(x.detach().T.contiguous()).codes)
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize("make", [tensor, lambda *s: torch.rand(*s) - 0.5])
def test_int8_vectorwise_is_its_definition(make):
    x = make(7, 33)
    q = quantize_int8(x)
    for row, codes, absmax in zip(x, q.codes, q.absmax, strict=True):
        assert absmax == row.abs().max()
        assert torch.equal(codes, torch.round(row * (127 / row.abs().max())).to(torch.int8))
    assert q.codes.abs().max() == 127 and q.absmax.shape == (7, 1)
    whole = quantize_int8(x, vectorwise=False)
    assert torch.equal(whole.codes, torch.round(x * (127 / x.abs().max())).to(torch.int8)) and whole.absmax.dim() == 0
    assert quantize_int8(x.view(7, 3, 11)).absmax.shape == (7, 3, 1)


def test_an_outlier_spoils_its_row_its_block_or_everything():
    x = tensor(16, 128)
    x[3, 5] = 1000
    quiet = torch.ones(16, 128, dtype=torch.bool)

    def error(back, mask):
        return float((back - x)[mask].norm() / x[mask].norm())

    quiet[3] = False
    assert error(dequantize_int8(quantize_int8(x, vectorwise=False)), quiet) > 0.9
    assert error(dequantize_int8(quantize_int8(x)), quiet) < 0.01
    assert error(dequantize_nf4(quantize_nf4(x)), quiet) < 0.11
    neighbours = torch.zeros_like(quiet)
    neighbours[3, 64:] = True  # of the same row, in the next block
    assert error(dequantize_nf4(quantize_nf4(x)), neighbours) < 0.12
    assert error(dequantize_int8(quantize_int8(x)), neighbours) > 0.9


def test_relative_errors_of_normal_weights():
    """FACTS of the format: NF4 has 9.2 % in blocks of 64, 9.6 % in 128; fewer bits, coarser."""
    x = tensor(512, 512)

    def error(back):
        return float((back - x).norm() / x.norm())

    assert error(dequantize_nf4(quantize_nf4(x))) == pytest.approx(0.092, abs=0.001)
    assert error(dequantize_nf4(quantize_nf4(x, 128))) == pytest.approx(0.096, abs=0.001)
    errors = [error(dequantize_uniform(quantize_uniform(x, bits))) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] > error(dequantize_nf4(quantize_nf4(x)))  # 4 bits in equal steps lose to NF4 on normal weights


# ------------------------------------------------------------------------------------------------ properties

shapes = st.lists(st.integers(0, 9), min_size=1, max_size=3)
scales = st.floats(-30, 30).map(lambda e: 10.0**e)
blocks = st.integers(1, 40).map(lambda n: 2 * n)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])


def drawn(shape, scale, seed, dtype):
    x = (tensor(*shape, seed=seed, dtype=torch.float64) * scale).clamp(-6e4, 6e4)
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.2] = 0
    return x.to(dtype)


def absmax_of_each(x, block):
    """The absmax of every entry's block, (n,) float64."""
    return torch.cat([part.abs().max().expand(len(part)) for part in x.double().flatten().split(block)])


@settings(max_examples=200, deadline=None)
@given(shape=shapes, scale=scales, block=blocks, seed=st.integers(0, 2**16), dtype=dtypes, bits=st.integers(2, 8))
def test_round_trips_stay_within_their_bound(shape, scale, block, seed, dtype, bits):
    x = drawn(shape, scale, seed, dtype)
    if not x.numel():
        return
    flat, largest = x.double().flatten(), absmax_of_each(x, block)
    rounding = 4 * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps  # a few in float32, one in dtype
    smallest = max(TINY, torch.finfo(dtype).tiny)  # below it a block is zero, or dtype rounds absolutely

    def holds(back, largest, half_step):
        assert back.shape == x.shape and back.dtype == dtype
        error = (back.double().flatten() - flat).abs()
        assert (error <= largest * (half_step + rounding) + smallest).all()
        assert not back.flatten()[flat == 0].any()

    q = quantize_nf4(x, block)
    holds(dequantize_nf4(q), largest, HALF_GAP)
    assert q.bytes == (x.numel() + 1) // 2 + 4 * -(x.numel() // -block)
    again = quantize_nf4(dequantize_nf4(q, torch.float32), block)
    assert torch.equal(again.codes, q.codes) and torch.equal(again.absmax[q.absmax >= TINY], q.absmax[q.absmax >= TINY])

    q = quantize_uniform(x, bits, block)
    holds(dequantize_uniform(q), largest, 0.5 / (2 ** (bits - 1) - 1))
    assert q.codes.numel() == -(x.numel() * bits // -8)

    holds(dequantize_int8(quantize_int8(x)), absmax_of_each(x, x.shape[-1]), 0.5 / 127)
    holds(dequantize_int8(quantize_int8(x, vectorwise=False)), largest.max(), 0.5 / 127)


@settings(max_examples=100, deadline=None)
@given(n=st.integers(0, 70), bits=st.integers(1, 8), seed=st.integers(0, 2**16))
def test_packing(n, bits, seed):
    codes = torch.randint(2**bits, (n,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    packed = pack(codes, bits)
    assert torch.equal(unpack(packed, bits, n), codes)
    stream = "".join(f"{int(code):0{bits}b}" for code in codes)
    assert packed.tolist() == [int(stream[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(stream), 8)]


@pytest.mark.parametrize("bits", [1, 9, 4.0, True, "4"])
def test_bits_that_are_refused(bits):
    with pytest.raises(ValueError, match="bits must be a whole number from 2 to 8"):
        quantize_uniform(torch.ones(4), bits)


def test_uniform_with_8_bits_in_one_block_is_int8():
    x = tensor(4, 16)
    q = quantize_uniform(x, 8, block=64)
    assert torch.equal(q.codes.view(4, 16).int() - 127, quantize_int8(x, vectorwise=False).codes.int())


# ------------------------------------------------------------------------------------------------ double quantization


def test_dynamic_values():
    """254 on both sides, 0 and 1; half of each side's lie in the topmost power of ten."""
    assert DYNAMIC.shape == (256,) and torch.equal(DYNAMIC, DYNAMIC.sort().values) and DYNAMIC.unique().numel() == 256
    assert torch.equal(DYNAMIC[:127], -DYNAMIC[128:255].flip(0)) and DYNAMIC[127] == 0 and DYNAMIC[255] == 1
    assert int((DYNAMIC > 0.1).sum()) == 64 + 1 and int(((DYNAMIC > 0.01) & (DYNAMIC < 0.1)).sum()) == 32
    assert_close(DYNAMIC[[128, 129, 130]], torch.tensor([5.5e-7, 3.25e-6, 7.75e-6]), rtol=1e-6, atol=0)


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 600), scale=scales, seed=st.integers(0, 2**16))
def test_double_quantization(n, scale, seed):
    absmax = (tensor(n, seed=seed).abs() + 0.1) * torch.tensor(scale, dtype=torch.float64).float()
    q = quantize_absmax(absmax)
    assert q.codes.shape == (n,) and q.second.shape == (-(n // -256),) and q.mean == absmax.mean()
    back, difference = dequantize_absmax(q), absmax - absmax.mean()
    each = q.second.repeat_interleave(256)[:n]
    widest = float((DYNAMIC[1:] - DYNAMIC[:-1]).max()) / 2
    # bar: half the widest gap of the table, and the rounding of the mean that is taken off and put back
    assert ((back - absmax).abs() <= each * widest + 8 * torch.finfo(torch.float32).eps * absmax.max() + TINY).all()
    scaled = difference / each.clamp_min(TINY)
    nearest = (scaled.unsqueeze(1) - DYNAMIC).abs().argmin(1)
    assert ((nearest - q.codes.long()).abs()[each >= TINY] <= 1).all()


def test_an_absmax_of_nothing_among_large_ones_does_not_turn_negative():
    """A zero code of such a block stays 0 and its signs stay."""
    absmax = torch.full((256,), 1.0)
    absmax[3] = 1e-3
    assert (dequantize_absmax(quantize_absmax(absmax)) >= 0).all()
    q = quantize_absmax(absmax)
    low = QuantizedAbsmax(torch.zeros_like(q.codes), torch.tensor([2.0]), torch.tensor(1.0))
    assert not dequantize_absmax(low).any()


def test_throughput_compares_equal_results():
    rows = throughput([(128, 64), (64, 64)], repeats=3)
    assert [row.name for row in rows][:2] == ["lora_course", "one lookup of all pairs"]
    assert rows[0].speed == 1 and all(row.milliseconds > 0 and row.speed > 0 for row in rows)
