# %% [markdown]
# # 10 · Quantization and QLoRA
#
# **The question.** The base model is frozen: it is only ever read. How few bits does each of its weights need, so that an adapter on top still learns as well?
#
# **What you will be able to do**
# - store a weight matrix in int8 and in NF4, really packed, and say what each weight costs to the hundredth of a bit;
# - explain where NF4's sixteen values come from, why there are blocks, and what double quantization saves;
# - write the layer that makes QLoRA cheap: a frozen weight that exists only while it is multiplied by;
# - fine-tune a language model over a 4-bit base that *your* code packed, next to the same in float32, and read off what was lost and what was saved;
# - say why the result must not simply be merged.
#
# **Time and memory.** About 120 minutes, most of them yours: the cells take a little over two minutes on a CPU, and about 3.5 GiB of memory.

# %%
import math
import statistics
import time
from importlib.util import find_spec

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from lora_course import AdapterConfig, adapters, eject, inject, merge
from lora_course.adapters.fused import plain_forward
from lora_course.adapters.loftq import LoftQ
from lora_course.assets import load_causal_lm, load_encoder, load_reviews
from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.memory import measure, plan
from lora_course.quantization import (
    dequantize_base,
    dequantize_nf4,
    quantize_base,
    quantize_nf4,
)
from lora_course.quantization.double_quantization import dequantize_absmax, quantize_absmax
from lora_course.quantization.linear import NF4Layer
from lora_course.quantization.nf4 import VALUES
from lora_course.quantization.uniform import dequantize_uniform, quantize_uniform
from lora_course.tables import in_units, text_table
from lora_course.teaching.exercises import check
from lora_course.teaching.profiles import by_profile, current_profile
from lora_course.training.batching import pad_collate
from lora_course.training.config import TrainingConfig
from lora_course.training.generation import evaluate_language_model, tokenize_texts
from lora_course.training.loop import fit

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
device = choose_device()
print(describe_device(device), f"· profile {current_profile()}")

# %% [markdown]
# ## Eight bits
#
# A float32 weight takes 32 bits and could tell about four billion values apart. A trained weight needs nothing like that. The oldest trick is to lay a ruler over the
# numbers: 127 equal steps on either side of zero, the longest mark at the largest absolute value, *absmax*.
#
# $$\text{step} = \frac{\max|w|}{127} \qquad \text{code} = \operatorname{round}\!\left(\frac{w}{\text{step}}\right) \in \{-127 \dots 127\} \qquad w' = \text{code}\cdot\text{step}$$
#
# The code fits into one signed byte, and $w'$ is never further than half a step from $w$. Who shares a ruler? If all weights of a matrix do, then one large weight anywhere makes the
# steps coarse for all. So each row, that is all that belongs to one output, gets its own (Dettmers et al. 2022 call it *vector-wise*).
#
# ## Exercise 10.1 · Eight bits, row by row
#
# ★★ · 15 minutes
#
# Write `quantize_rows(W)` that returns `codes`, int8 of W's shape, and `step`, float32 of shape (out, 1), so that `codes * step` is W to half a step. Some rows may be all
# zero: pruned neurons are, and so is every B of LoRA on its first day.
#
# <details><summary>Nudge</summary>
#
# One absmax for each row: reduce over dim 1, and keep that dimension, so that it broadcasts.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `.to(torch.int8)` cuts off, it does not round. And a row of zeros has absmax 0: what is 0 / 0?
#
# </details>
# <details><summary>Outline</summary>
#
# absmax = W.abs().amax(dim=1, keepdim=True); where it is 0, take any other number. step = absmax / 127. Codes: divide, `torch.round`, to int8.
#
# </details>


# %% exercise="10.1"
def quantize_rows(W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """codes (out, in) int8 and step (out, 1) float32, with codes * step near W (out, in)."""
    ### BEGIN SOLUTION
    absmax = W.abs().amax(dim=1, keepdim=True)  # (out, 1)
    step = torch.where(absmax > 0, absmax, 1.0) / 127
    return torch.round(W / step).to(torch.int8), step
    ### END SOLUTION


# %% check="10.1"
quantize_rows = check("10.1", quantize_rows)

# %% [markdown]
# ## One loud weight
#
# How much does a single outlier cost the others? Take 64 rows of 512 normal numbers, and make one entry 60 times as large as the typical one. Such weights, and
# far more so such activations, exist in real models. The table is the relative error of *all other* entries, $\lVert w - w'\rVert / \lVert w\rVert$, by how many of them share an absmax.


# %%
def relative_error(originals, copies):
    """|| W - W' || / || W ||, over all matrices together."""
    pairs = list(zip(originals, copies, strict=True))
    lost = sum((w - c).double().square().sum() for w, c in pairs)
    return (lost / sum(w.double().square().sum() for w, _ in pairs)).sqrt().item()


seed_everything(0)
calm = torch.randn(64, 512)
loud = calm.clone()
loud[20, 100] = 60.0
others = torch.ones(64, 512, dtype=torch.bool)
others[20, 100] = False
rows = [("an absmax for", "8 bits", "8 bits, one outlier", "4 bits", "4 bits, one outlier")]
for name, block in (("the whole matrix", calm.numel()), ("each row of 512", 512), ("each block of 64", 64)):
    row = [name]
    for bits in (8, 4):
        for W in (calm, loud):
            copy = dequantize_uniform(quantize_uniform(W, bits, block))
            row.append(f"{relative_error([W[others]], [copy[others]]):.1%}")
    rows.append(tuple(row))
print(text_table(rows))

# %% [markdown]
# With one absmax for the matrix, an outlier multiplies the error of everything. In 4 bits it erases the matrix: the step is so wide that every other weight rounds to zero. With
# blocks the damage ends after 64 weights. Even without an outlier blocks help, since the largest of 64 numbers is smaller than the largest of 32 768.
#
# A block is simply 64 neighbours in the flattened matrix. That is all there is to "blockwise".
#
# ## Exercise 10.2 · Blocks
#
# ★ · 10 minutes
#
# Write `scale_blocks(x, block)`. Read x row by row, cut it into blocks, fill the last one up with zeros if it is shorter, and divide each by its absmax. Return `scaled`, (blocks, block), with
# entries in [-1, 1], and `absmax`, (blocks,). A block of zeros stays zeros.
#
# <details><summary>Nudge</summary>
#
# After `flatten`, a view as (blocks, block) is the cutting.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# How many zeros are missing at the end? `-n % block`, in Python, is just that number. `F.pad(flat, (0, how_many))` appends them.
#
# </details>
# <details><summary>Outline</summary>
#
# Flatten, pad, view, `abs().amax(dim=1)`. Divide by it as a column, with 1 in place of 0.
#
# </details>


# %% exercise="10.2"
def scale_blocks(x: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """scaled (blocks, block) in [-1, 1] and absmax (blocks,), for x of any shape."""
    ### BEGIN SOLUTION
    flat = x.flatten()
    blocks = F.pad(flat, (0, -len(flat) % block)).view(-1, block)
    absmax = blocks.abs().amax(dim=1)  # (blocks,)
    return blocks / torch.where(absmax > 0, absmax, 1.0).unsqueeze(1), absmax
    ### END SOLUTION


# %% check="10.2"
scale_blocks = check("10.2", scale_blocks)

# %% [markdown]
# ## Sixteen values
#
# With four bits there are sixteen marks on the ruler, and it pays to think about where they go. Trained weights are roughly normal: many small ones, few large ones. Equal steps waste marks
# out where hardly any weight lives.
#
# QLoRA (Dettmers et al. 2023) puts the marks at *quantiles* of a normal distribution, so that between two neighbours there is always the same share of the weights. Three details make it exactly sixteen:
# - zero must be a mark of its own, or pruned weights and padding would not survive;
# - so there are seven below it and eight above: quantiles at equal distances in probability on each side;
# - the outermost quantile cannot be at probability 1, which lies at infinity. It is at $1 - \tfrac12\left(\tfrac1{30} + \tfrac1{32}\right)$, half a bin from the end, averaged over the two sides.
#
# Divided by the largest, they lie in [-1, 1]. A few lines make the table, the same for every model in NF4:

# %% tags=["nbval-check-output"]
outermost = 1 - (1 / 30 + 1 / 32) / 2
quantile = torch.special.ndtri  # probability -> value, of a standard normal
above = quantile(torch.linspace(outermost, 0.5, 9, dtype=torch.float64)[:-1])
below = -quantile(torch.linspace(outermost, 0.5, 8, dtype=torch.float64)[:-1])
table = torch.cat([below, torch.zeros(1), above]).sort().values
table = table / table.max()
print("  ".join(f"{value:.4f}" for value in table.tolist()))
print(f"largest difference from the package's table: below 1e-6? {bool((table - VALUES).abs().max() < 1e-6)}")

# %% [markdown]
# ## Exercise 10.3 · The nearest of sixteen, two to a byte
#
# ★★ · 20 minutes
#
# No computer has a 4-bit number. A code that sits in a byte of its own takes 8 bits, whatever you call it. So two share one: the first of each pair of neighbours in the *high* half, the second in the
# low half, as bitsandbytes does. Write `pack_nf4(scaled, table)`: for an even number of entries in [-1, 1], the index of the nearest value in `table` (ascending, 16 values), two indices a byte.
#
# <details><summary>Nudge</summary>
#
# The distances from every entry to every value are a matrix of shape (n, 16). Where is the smallest in each row?
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# "Move up by four places" is times 16. `index[::2]` are the first ones of each pair.
#
# </details>
# <details><summary>Outline</summary>
#
# `(scaled.unsqueeze(1) - table).abs().argmin(dim=1)`, then 16 · first + second, as uint8. Less memory: count how many of the 15 midpoints between neighbours lie below, with `torch.bucketize`.
#
# </details>


# %% exercise="10.3"
def pack_nf4(scaled: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """scaled (n,), n even, in [-1, 1]; table (16,), ascending -> (n / 2,) uint8, the first of each pair in the high half."""
    ### BEGIN SOLUTION
    midpoints = (table[1:] + table[:-1]) / 2
    index = torch.bucketize(scaled, midpoints)  # how many midpoints lie below
    return (16 * index[::2] + index[1::2]).to(torch.uint8)
    ### END SOLUTION


# %% check="10.3"
pack_nf4 = check("10.3", pack_nf4)

# %% [markdown]
# On real weights now: three matrices of the packaged encoder, and random normal ones of the same shapes and sizes. Do your blocks and your codes agree with the package's? (Its tests hold them against bitsandbytes, bit for bit. You divide where it
# multiplies by the reciprocal, so a weight that lies within a rounding error of a midpoint may fall to the other side.)

# %%
encoder, _ = load_encoder("packaged")
layer = encoder.bert.encoder.layer[2]
real = [
    linear.weight.detach()
    for linear in (layer.attention.self.query, layer.intermediate.dense, layer.output.dense)
]
seed_everything(0)
normal = [W.std() * torch.randn_like(W) for W in real]

for W in real:
    scaled, absmax = scale_blocks(W, 64)
    mine, theirs = pack_nf4(scaled.flatten(), VALUES), quantize_nf4(W)
    differ = int((mine != theirs.codes).sum())
    print(
        f"{tuple(W.shape)!s:12}: {W.nbytes:9,} bytes -> {theirs.bytes:7,}; "
        f"{differ} of {mine.numel():,} bytes differ from the package's; absmax equal: {torch.equal(absmax, theirs.absmax)}"
    )
    assert differ <= mine.numel() // 10_000

# %% [markdown]
# Are the sixteen codes really used equally often? That is what quantiles were for.

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
grid = torch.linspace(-1, 1, 400)
sigma = 1 / quantile(torch.tensor(outermost)).item()
left.plot(grid, torch.exp(-(grid**2) / (2 * sigma**2)), color=GREY, label="normal density (height is free)")
left.vlines(VALUES, -0.08, 0.1, color=BLUE, linewidth=2, label="NF4")
uniform_marks = torch.arange(-7, 8) / 7
left.vlines(uniform_marks, -0.3, -0.12, color=ORANGE, linewidth=2, label="equal steps")
left.set(xlabel="weight / absmax of its block", yticks=[], title="Where the marks are", ylim=(-0.35, 1.5))
left.legend(loc="upper left", fontsize=8)


def shares(weights, marks):
    """How often each mark is the nearest, in blocks of 64."""
    entries = torch.cat([scale_blocks(W, 64)[0].flatten() for W in weights])
    index = torch.bucketize(entries, (marks[1:] + marks[:-1]) / 2)
    return torch.bincount(index, minlength=len(marks)) / len(entries)


def entropy_in_bits(p):
    return -(p[p > 0] * p[p > 0].log2()).sum().item()


nf4_shares, uniform_shares = shares(real, VALUES), shares(real, uniform_marks)
right.bar(torch.arange(16) - 0.2, 100 * nf4_shares, 0.4, color=BLUE, label="NF4")
right.bar(torch.arange(15) + 0.2, 100 * uniform_shares, 0.4, color=ORANGE, label="equal steps")
right.axhline(100 / 16, color=GREY, linestyle="--", label="equally often")
right.set(xlabel="code", ylabel="% of the encoder's weights", title="How often each mark is used")
right.legend(fontsize=8)
fig.tight_layout()
plt.show()
for name, p in (("NF4", nf4_shares), ("equal steps", uniform_shares)):
    print(f"{name:11}: code used least {p.min():.1%}, most {p.max():.1%}; entropy {entropy_in_bits(p):.2f} of 4 bits")

# %% [markdown]
# More evenly than equal steps, but not equally. The quantiles are those of a normal distribution whose far end is at absmax, and the largest of 64 weights is not always at the same quantile: it depends on the block. Yoshida (2023)
# works out the distribution that blocks really see, and finds that equal use was not even the right goal: what hurts a model is the error.
#
# ## Exercise 10.4 · What a weight costs
#
# ★ · 10 minutes
#
# Four bits is not the whole bill. Each block also stores its absmax, a float32. *Double quantization* stores that in 8 bits too: each group of `absmax_block` absmax values shares one float32 more.
# Write `bits_a_weight(bits, block, absmax_block=None)`: the bits that one weight costs, all told, without double quantization (None) or with it. (The package's one mean for each matrix is too little to count.)
#
# <details><summary>Nudge</summary>
#
# Whatever `block` weights share, each of them pays the `block`-th part of.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# The second float32 is shared by `absmax_block` absmax values. How many weights is that?
#
# </details>
# <details><summary>Outline</summary>
#
# bits + 32 / block, or bits + 8 / block + 32 / (block · absmax_block).
#
# </details>


# %% exercise="10.4"
def bits_a_weight(bits: int, block: int, absmax_block: int | None = None) -> float:
    """Bits a weight, with a float32 absmax a block, or an 8-bit one and a float32 for each absmax_block of those."""
    ### BEGIN SOLUTION
    if absmax_block is None:
        return bits + 32 / block
    return bits + 8 / block + 32 / (block * absmax_block)
    ### END SOLUTION


# %% check="10.4"
bits_a_weight = check("10.4", bits_a_weight)

# %% tags=["nbval-check-output"]
print("block   absmax in float32   absmax in 8 bits, 256 share a float32")
for block in (32, 64, 128, 256, 1024):
    print(f"{block:5d}   {bits_a_weight(4, block):17.3f}   {bits_a_weight(4, block, 256):37.3f}")
saved = bits_a_weight(4, 64) - bits_a_weight(4, 64, 256)
print(f"\nin blocks of 64 double quantization saves {saved:.3f} bits a weight: {saved * 65e9 / 8 / 1e9:.2f} GB for 65 billion weights")

# %% [markdown]
# Small blocks make small errors and large bills; double quantization makes them affordable. What does it lose? All absmax are positive, so their mean is subtracted before they are put into 8 bits. Measured on the packed
# tensors of one layer:

# %%
W = real[1]
packed = NF4Layer(layer.intermediate.dense)
once = quantize_nf4(W)
absmax_again = dequantize_absmax(quantize_absmax(once.absmax))
print(f"bits a weight, from the bytes of the layer: {8 * packed.packed_bytes() / W.numel():.3f}")
print(f"relative error of absmax by double quantization: {relative_error([once.absmax], [absmax_again]):.2%}")
print(f"relative error of the weights, absmax in float32: {relative_error([W], [dequantize_nf4(once)]):.3%}")
print(f"relative error of the weights, absmax in 8 bits : {relative_error([W], [packed.dense().detach()]):.3%}")

# %% [markdown]
# ## Bits, blocks and error
#
# The whole picture: the same matrices in 2 to 8 bits of equal steps, in int8 by rows (yours), and in NF4; then in 4 bits with blocks from 16 to 4 096. Blue is the encoder, orange random normal numbers.


# %%
def uniform_error(weights, bits, block=64):
    return relative_error(weights, [dequantize_uniform(quantize_uniform(W, bits, block)) for W in weights])


def nf4_error(weights, block=64):
    return relative_error(weights, [dequantize_nf4(quantize_nf4(W, block)) for W in weights])


def rows_error(weights):
    pairs = [quantize_rows(W) for W in weights]
    return relative_error(weights, [codes * step for codes, step in pairs])


bits, blocks = range(2, 9), [16, 32, 64, 128, 256, 512, 1024, 4096]
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
for name, weights, color in (("encoder", real, BLUE), ("normal", normal, ORANGE)):
    left.semilogy(bits, [100 * uniform_error(weights, b) for b in bits], "o-", color=color, label=f"equal steps, {name}")
    left.semilogy([4], [100 * nf4_error(weights)], "*", color=color, markersize=14, label=f"NF4, {name}")
    left.semilogy([8], [100 * rows_error(weights)], "s", color=color, markersize=8, markerfacecolor="white", label=f"int8 by rows, {name}")
    right.semilogx(blocks, [100 * nf4_error(weights, b) for b in blocks], "*-", color=color, base=2, label=f"NF4, {name}")
    right.semilogx(blocks, [100 * uniform_error(weights, 4, b) for b in blocks], "o--", color=color, base=2, label=f"4 bits, equal steps, {name}")
left.set(xlabel="bits of a code (blocks of 64)", ylabel="relative error, %", title="Bits")
right.set(xlabel="weights that share an absmax", ylabel="relative error, %", title="Blocks, at 4 bits", ylim=(0, None))
left.legend(fontsize=8)
right.legend(fontsize=8)
fig.tight_layout()
plt.show()
for name, weights in (("encoder", real), ("normal", normal)):
    print(
        f"{name:8}: int8 by rows {rows_error(weights):.2%}, NF4 {nf4_error(weights):.2%}, equal 4-bit steps {uniform_error(weights, 4):.2%}, "
        f"3 bits {uniform_error(weights, 3):.2%}, 2 bits {uniform_error(weights, 2):.2%}"
    )

# %% [markdown]
# Each bit less doubles the error or more; NF4 sits a little below the line of equal steps, at the same number of bits. That is worth having, and it is a modest gain: most of what makes 4 bits work is the blocks.
#
# **Try it.** Move *Outlier* from 0 to 20, first with 1024 weights a block, then with 32. What happens to the other weights of its block? Then change the code book,
# or the bits, and see where the values lie.

# %%
from lora_course.teaching.widgets import quantization_explorer

quantization_explorer.static()

# %%
quantization_explorer.explore()

# %% [markdown]
# Is the course's NF4 the one that everybody uses? If bitsandbytes is installed, the next cell asks it.

# %%
if find_spec("bitsandbytes"):
    import bitsandbytes.functional as bnb

    def seconds(call, *arguments):
        began = time.perf_counter()
        call(*arguments)
        return time.perf_counter() - began

    same, ours, theirs = [], [], []
    for W in real:
        packed_there, state = bnb.quantize_4bit(W, blocksize=64, quant_type="nf4", compress_statistics=False)
        here = quantize_nf4(W)
        same.append(torch.equal(packed_there.flatten(), here.codes) and torch.equal(state.absmax, here.absmax))
        for _ in range(15):
            ours.append(seconds(dequantize_nf4, here))
            theirs.append(seconds(bnb.dequantize_4bit, packed_there, state))
    ratio = statistics.median(t / o for o, t in zip(ours, theirs, strict=True))
    print(f"codes and absmax equal bit for bit: {all(same)}; our speed of dequantizing / theirs, CPU, float32: {ratio:.2f}")
else:
    print("skipped: bitsandbytes is not installed (pip install bitsandbytes)")

# %% [markdown]
# (A speed below 1 means that theirs, a loop in C++, is the faster one.)
#
# ## A weight that exists only while it is used
#
# Now the layer. Forward: $y = xW'^\top$, with $W'$ made from the codes for this one product. Backward: the weight is frozen, so only x wants a gradient, and with $g$ that of $y$ it is
#
# $$\frac{\partial L}{\partial x} = g\,W'$$
#
# Here is the trap. Write the forward in plain PyTorch, and autograd will *save* $W'$ for that product: whole, in float32, for every layer, until the backward pass has come by. The 4-bit model then needs as much memory
# as the 32-bit one, plus the codes. The way out is to make $W'$ a second time.
#
# ## Exercise 10.5 · A weight that is never kept
#
# ★★★ · 20 minutes
#
# Complete the two halves of `FrozenLinear`, an operation with a backward pass of its own. `dequantize` is a function without arguments that makes W, (out, in), anew on each call. x may have any number of leading dimensions. Keep nothing between the two halves that the second does not need.
#
# <details><summary>Nudge</summary>
#
# What lies between the two halves is `ctx`. The weight must not be in it; but what makes the weight may.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `backward` returns one thing for each argument of `forward` after ctx: a gradient for x, None for the function.
#
# </details>
# <details><summary>Outline</summary>
#
# Forward: put `dequantize` on ctx, return x @ dequantize().T. Backward: grad @ ctx.dequantize(), None.
#
# </details>


# %% exercise="10.5"
class FrozenLinear(torch.autograd.Function):
    """x W^T, for a W (out, in) that `dequantize` makes anew for each use. x (..., in) -> (..., out)."""

    @staticmethod
    def forward(ctx, x, dequantize):
        ### BEGIN SOLUTION
        ctx.dequantize = dequantize
        return x @ dequantize().T
        ### END SOLUTION

    @staticmethod
    def backward(ctx, grad):
        ### BEGIN SOLUTION
        return grad @ ctx.dequantize(), None
        ### END SOLUTION


# %% check="10.5"
FrozenLinear = check("10.5", FrozenLinear)

# %% [markdown]
# Everything together: a layer with *your* blocks, *your* codes and *your* backward pass. The package brings double quantization, dequantization and the book-keeping. Beside it the naive layer of the trap. Weigh both, in a
# stack of four layers with LoRA on each:


# %%
class MyNF4(NF4Layer):
    """The package's layer of 4 bits, with your parts."""

    def pack(self, weight):
        """(out, in) -> the tensors that are stored."""
        scaled, absmax = scale_blocks(weight.float(), 64)
        codes = pack_nf4(scaled.flatten(), VALUES.to(weight.device))[: (weight.numel() + 1) // 2]
        absmax = quantize_absmax(absmax)
        return {"codes": codes.clone(), "absmax": absmax.codes, "second": absmax.second, "mean": absmax.mean}

    def forward(self, x):
        product = FrozenLinear.apply(x, self.dense)
        return product if self.bias is None else product + self.bias


class NaiveNF4(MyNF4):
    def forward(self, x):
        return F.linear(x, self.dense(), self.bias)


def stack(layer):
    """Four layers of 512 with LoRA on each, over float32 weights (None) or over a quantized layer."""
    seed_everything(0)
    model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(4)))
    if layer:
        quantize_base(model, layer=layer)
    return inject(model, AdapterConfig(rank=8, alpha=16))


x = torch.randn(64, 512)
rows = [("4 layers of 512 x 512, 64 tokens", "weights and adapters", "saved for backward")]
for name, kind in (("float32", None), ("NF4, naive", NaiveNF4), ("NF4, yours", MyNF4)):
    weighed = measure(stack(kind), x, loss=lambda model, x: model(x).square().sum())
    rows.append((name, in_units(weighed.parameters + weighed.buffers), in_units(weighed.saved)))
print(text_table(rows))

# %% [markdown]
# ## Bug lab · Quantized LoRA, taken literally
#
# "LoRA with quantization" is sometimes understood like this: quantize A and B.


# %%
class QuantizedAdapter(nn.Module):
    """The change s B A x, with A and B in few bits."""

    def __init__(self, in_features, out_features, rank=8, bits=8):
        super().__init__()
        self.top = 2 ** (bits - 1) - 1
        self.register_buffer("A", torch.zeros(rank, in_features, dtype=torch.int8))
        self.register_buffer("B", torch.zeros(out_features, rank, dtype=torch.int8))
        self.step_A, self.step_B = torch.ones(()), torch.ones(())

    def quantize(self, tensor):
        step = tensor.abs().max() / self.top
        return torch.round(tensor / step).clamp(-self.top, self.top), step

    def store(self, A, B):
        codes, self.step_A = self.quantize(A)
        self.A.copy_(codes)
        codes, self.step_B = self.quantize(B)
        self.B.copy_(codes)

    def forward(self, x):
        return x @ (self.A * self.step_A).T @ (self.B * self.step_B).T


# %% [markdown]
# **Predict.** (a) How many parameters does an optimizer find in it? (b) It is stored with `bits=8`, and then with `bits=4`: how many bytes? (c) What does `quantize` make of a fresh B, which is zero? (d) On the packaged encoder with
# rank 8 on every linear layer: how many MiB does it save, and how many would NF4 save on the frozen weights?
#
# **Run.**

# %% tags=["nbval-check-output"]
eight, four = QuantizedAdapter(384, 384, bits=8), QuantizedAdapter(384, 384, bits=4)
print("(a) trainable parameters:", sum(p.numel() for p in eight.parameters() if p.requires_grad))
print("(b) bytes of A and B:", *(f"{m.top.bit_length() + 1} bits {m.A.nbytes + m.B.nbytes:,};" for m in (eight, four)))
print("(c) codes of a zero B:", eight.quantize(torch.zeros(384, 8))[0].flatten()[:3].tolist())
linears = [m for m in encoder.bert.encoder.modules() if isinstance(m, nn.Linear)]
in_adapters = sum(8 * (m.in_features + m.out_features) for m in linears)
in_base = sum(m.weight.numel() for m in linears)
print(f"(d) adapters: {in_adapters:,} numbers, {in_adapters * (4 - 1) / 2**20:.1f} MiB saved in int8")
print(f"    frozen weights: {in_base:,} numbers, {in_base * (32 - bits_a_weight(4, 64, 256)) / 8 / 2**20:.1f} MiB saved in NF4")

# %% [markdown]
# **Explain.** (a) Nothing is trained: codes are integers, and rounding has no gradient. Whoever calls `store` must keep A and B in float32 somewhere else, so nothing is saved at all. (b) Codes that use 4 bits of an int8 take 8. (c) 0 / 0 is NaN, and what NaN
# becomes in an int8 buffer is left to the processor. (d) It is the wrong end of the model. What is small and trained gets squeezed; what is large and frozen stays whole.
#
# **Fix.** The other way round, and that is QLoRA: the base frozen, in 4 bits, packed; A and B small, whole, trainable.
#
# ## The real run
#
# SmolLM2 with 135 million weights learns to write like film critics: sentences of Rotten Tomatoes. Twice with the same LoRA (rank 8 on all linear layers), seed, sentences, order and learning rate; once over float32, once over a base that your code
# packed. The judge is *perplexity* on sentences that neither has seen: $\exp$ of the mean cross entropy over all predicted tokens, so long sentences count for more. A model that is as unsure as among 50 equally likely tokens has 50.
#
# One thing must be said first. The packaged SmolLM2 is small because its file was quantized once already, by others, to 4 bits in blocks of 32 (the GGUF format Q4_1, with a step and an offset for each block). "float32" below means those weights, unpacked:

# %%
settings = by_profile(
    smoke=dict(train=16, test=8),
    cpu=dict(train=144, test=48),
    full=dict(train=6000, test=1500),
)
TRAINING = TrainingConfig(epochs=1, batch_size=8, learning_rate=1e-3, seed=0)
LORA = AdapterConfig(rank=8, alpha=16)  # on all linear layers


model, tokenizer = load_causal_lm("packaged")
model.to(device)
reviews = load_reviews("rotten_tomatoes")
train = tokenize_texts(reviews["train"].select(range(settings["train"]))["text"], tokenizer)
held_out = tokenize_texts(reviews["test"].select(range(settings["test"]))["text"], tokenizer)
first_blocks = model.model.layers[0].self_attn.q_proj.weight.detach().view(-1, 32)[:1000].cpu()
print(f"different values in a block of 32 weights: {max(len(block.unique()) for block in first_blocks)} at most")
print(f"{len(train)} sentences to train on, {sum(len(ids) - 1 for ids in train['input_ids'])} predicted tokens; {len(held_out)} held out")
print("for example:", reviews["train"][0]["text"])

# %%
results, histories, weighed, worked = {}, {}, {}, {}
clock = time.process_time if device.type == "cpu" else time.perf_counter  # what else the machine does is not counted


def collate(examples):
    return pad_collate(examples, tokenizer.pad_token_id)


def score(name, model):
    results[name] = evaluate_language_model(model, tokenizer, held_out)
    print(f"{name:26}: {results[name]}")


batch = {name: tensor.to(device) for name, tensor in collate([train[i] for i in range(8)]).items()}


def fine_tune(name, model):
    """LoRA on all linear layers of whatever base this is: weigh a step, train, score."""
    seed_everything(0)
    inject(model, LORA).to(device).train()
    weighed[name] = measure(model, batch)
    began = clock()
    with plain_forward():  # around your layer there is no hand-written step (lesson 09), so the other run takes none
        histories[name] = fit(model, train, collate, TRAINING, name=name)
    worked[name] = clock() - began
    score(name, model)


score("float32, untouched", model)
fine_tune("float32 + LoRA", model)
del model
model = load_causal_lm("packaged")[0].to(device)
score("int8, untouched", quantize_base(model, "int8"))

# %%
del model
model = load_causal_lm("packaged")[0].to(device)
began = time.perf_counter()
quantize_base(model, layer=MyNF4)
print(f"packed in {time.perf_counter() - began:.1f} s")
layers = [m for m in model.modules() if isinstance(m, MyNF4)]
times = []
for _ in range(3):
    began = clock()
    for layer in layers:
        layer.dense()
    times.append(clock() - began)
unpacking = min(times)
score("NF4, untouched", model)
fine_tune("NF4 + LoRA (QLoRA)", model)
qlora = model

# %%
print(
    f"{describe_device(device)}; SmolLM2-135M, LoRA rank 8 on all linear layers, {len(train)} sentences once in batches of 8, learning rate 1e-3, one seed;"
)
print(f"{len(held_out)} held-out sentences, {int(results['float32, untouched'].tokens.sum())} predicted tokens;")
print("training: seconds of processor time, over all threads\n" if device.type == "cpu" else "training: seconds by the clock\n")
rows = [("", "perplexity", "nats a token", "training", "weights", "gradients + Adam", "saved", "peak of a step")]
for name, result in results.items():
    row = [name, f"{result.perplexity:.1f}", f"{result.loss:.3f}"]
    if name in weighed:
        w = weighed[name]
        sizes = (w.parameters + w.buffers, w.gradients + w.optimizer_state, w.saved, w.peak)
        row += [f"{worked[name]:.0f} s", *map(in_units, sizes)]
    else:
        row += [""] * 5
    rows.append(tuple(row))
print(text_table(rows))
plain, q = results["float32 + LoRA"], results["NF4 + LoRA (QLoRA)"]


def gap(one, other):
    """Mean difference in nats a token, and its standard error over texts."""
    d, tokens = one.nats - other.nats, one.tokens.sum()
    return (d.sum() / tokens).item(), (math.sqrt(len(d)) * d.std() / tokens).item()


print("\nQLoRA minus LoRA                     : {:+.3f} ± {:.3f} nats a token".format(*gap(q, plain)))
for name in ("int8", "NF4"):
    lost = gap(results[f"{name}, untouched"], results["float32, untouched"])
    print(f"{name + ' minus float32, untouched':37}: {lost[0]:+.3f} ± {lost[1]:.3f} nats a token")
step = worked["NF4 + LoRA (QLoRA)"] / len(histories["NF4 + LoRA (QLoRA)"].steps)
print(f"unpacking all {len(layers)} layers once: {unpacking:.2f} s; a step does it twice and takes {step:.2f} s")

# %%
fig, ax = plt.subplots(figsize=(7, 3.8))
for (name, history), color, style in zip(histories.items(), (BLUE, ORANGE), ("-", "--"), strict=True):
    losses = torch.tensor([row.loss for row in history.steps])
    window = max(1, len(losses) // 6)
    ax.plot(range(window, len(losses) + 1), losses.unfold(0, window, 1).mean(1), color=color, linestyle=style, label=name)
ax.set(xlabel="optimizer step", ylabel="training loss (nats a token), running mean", title="The same sentences over two bases")
ax.legend()
fig.tight_layout()
plt.show()

# %% [markdown]
# ## Was the memory as planned? And for a large model?
#
# SmolLM2 is a bad advertisement: its embedding, which stays whole, is a fifth of it, and what one step saves for the backward pass weighs more than the packed weights. `plan` works out the same table without running anything. First for our run, against what was measured; then for a
# model of 7 billion weights, in bfloat16 with checkpointing, where the weights are nearly everything.

# %%
sequence = batch["input_ids"].shape[1]
rows = [("", "weights", "gradients + Adam", "saved", "peak of a step")]


def bill(name, m):
    sizes = (m.parameters + m.buffers, m.gradients + m.optimizer_state, m.saved, m.peak)
    rows.append((name, *map(in_units, sizes)))


bill("SmolLM2, QLoRA: measured", weighed["NF4 + LoRA (QLoRA)"])
bill("SmolLM2, QLoRA: planned", plan("smollm2-135m", LORA, batch=8, sequence=sequence, quantization="nf4-double"))
large = dict(batch=1, sequence=512, dtype=torch.bfloat16, adapter_dtype=torch.float32, checkpointing=True)
bill("7B, LoRA: planned", plan("llama-2-7b", LORA, **large))
bill("7B, QLoRA: planned", plan("llama-2-7b", LORA, quantization="nf4-double", **large))
print(text_table(rows))

# %% [markdown]
# It was, to every digit shown. Over 7 billion weights what LoRA trains and keeps is a small matter, and the four bits decide whether the model fits.
#
# ## Merge it? What would be lost
#
# In lesson 02 a trained adapter was folded into the weight and cost nothing from then on. Try that here.

# %%
try:
    merge(qlora)
except ValueError as refusal:
    print("refused:", refusal)

# %% [markdown]
# The sum would have to be rounded to the sixteen marks again. And the weights of a quantized base *lie on the marks*: whatever moves one by less than half the distance to the next mark is rounded back to where it was. For each layer: how large is the
# learned change, relative to the weight, and what is the cosine between it and what would be left of it? For comparison some layers again, with their change multiplied by 3 to 100.

# %%
sizes, cosines, larger = [], [], []
with torch.no_grad():
    for number, adapter in enumerate(adapters(qlora).values()):
        delta = adapter.delta_weight()
        sizes.append((delta.norm() / adapter.base_layer.dense().norm()).item())
        cosines.append(adapter.base_layer.kept_of(delta))
        if number % 21 == 0:
            larger += [(100 * k * sizes[-1], adapter.base_layer.kept_of(k * delta)) for k in (3, 10, 30, 100)]
fig, ax = plt.subplots(figsize=(7, 3.8))
ax.semilogx([100 * s for s in sizes], cosines, "o", color=BLUE, markersize=4, alpha=0.6, label="as learned")
ax.semilogx(*zip(*larger, strict=True), "s", color=ORANGE, markersize=4, alpha=0.7, label="3 to 100 times as large")
ax.legend()
ax.set(
    xlabel="size of the learned change, % of the weight (norms)",
    ylabel="cosine with what would be left",
    ylim=(0, 1),
    title=f"Merging into 4 bits, {len(sizes)} layers of SmolLM2",
)
fig.tight_layout()
plt.show()
print(f"change: median {statistics.median(sizes):.1%} of the weight; cosine: median {statistics.median(cosines):.2f}, {min(cosines):.2f} to {max(cosines):.2f}")

# %% [markdown]
# And in perplexity? `dequantize_base` makes ordinary layers of the packed ones, after which merging is exact, and the model as large as it ever was. Quantize *that*, against all advice:

# %%
dequantize_base(qlora)
eject(merge(qlora))
score("NF4 + LoRA, merged, whole", qlora)
quantize_base(qlora)
score("merged, then NF4 again", qlora)
print("merged, then NF4 again, minus QLoRA  : {:+.3f} ± {:.3f} nats a token".format(*gap(results["merged, then NF4 again"], q)))

# %% [markdown]
# Merged and quantized again, the model is nearly the untouched one: training is undone. So keep the adapter beside the 4-bit base, or merge into whole weights and pay for whole weights.
#
# ## LoftQ: start where quantization stopped
#
# QLoRA starts from $Q$, not from $W$: with B = 0 the adapter is silent, and what quantization lost is lost. LoftQ (Li et al. 2023) starts A and B at the best rank-r approximation of $W - Q$, quantizes $W - sBA$ again, and so on, five times. How much nearer to W does it start?

# %%
rows = [("|| W - start || / || W ||", *(str(tuple(W.shape)) for W in real))]
linears = [encoder.bert.encoder.layer[2].attention.self.query, encoder.bert.encoder.layer[2].intermediate.dense]
linears.append(encoder.bert.encoder.layer[2].output.dense)
with torch.no_grad():
    rows.append(("NF4 alone (QLoRA)", *(f"{relative_error([m.weight], [NF4Layer(m).dense()]):.2%}" for m in linears)))
    for rank in (8, 64):
        row = [f"LoftQ, rank {rank}"]
        for m in linears:
            adapter = LoftQ(m, AdapterConfig("loftq", rank=rank, alpha=16))
            row.append(f"{relative_error([m.weight], [adapter.base_layer.dense() + adapter.delta_weight()]):.2%}")
        rows.append(tuple(row))
print(text_table(rows))

# %% [markdown]
# The error of rounding is nearly noise: its singular values fall off as slowly as those of random numbers, so few directions hold little of it. At rank 8 there is little to gain; at rank 64, on matrices this small, a good part. LoftQ's paper finds its largest gains at 2 bits, where plain quantization breaks down.
#
# ## A sober verdict
#
# - **How few bits?** Int8 is hard to tell from float32. Four bits are not free here: look at the gap between "NF4, untouched" and "float32, untouched", and at what is left of it after training. The adapter makes up for a part of it, not for all. The QLoRA paper
#   reports no loss against 16 bits, for models fifty to five hundred times as large and runs far longer. Ours is small, had been through four bits once before, and was trained for fewer than twenty steps with one seed.
# - **Memory.** The weights shrink, and nothing else does: gradients, optimizer and what is saved for the backward pass are those of LoRA. For a large model in a small batch that is nearly everything; for a small model in a large batch it is not much.
# - **Time.** Nothing gets faster. Each step unpacks every weight twice, on top of the same products. Per weight that costs the same for one token or a thousand, so large batches hardly notice. A GPU with kernels made for it pays less; it still pays.
# - **So:** if the base fits in 16 bits, LoRA over it is simpler, faster and can be merged. If it does not fit, QLoRA is the difference between a fine-tune and none.
#
# ## Self-test
#
# Answer before you open them.
#
# <details><summary>1. A colleague stores weights in NF4 with blocks of 32 and no double quantization. What does a weight cost, and what would blocks of 64 with double quantization cost?</summary>
#
# 4 + 32/32 = 5 bits, against 4 + 8/64 + 32/(64 · 256) ≈ 4.127. A sixth less, for a slightly larger error.
#
# </details>
# <details><summary>2. You replace the base by NF4, and the memory of a training step hardly falls. Name two possible reasons.</summary>
#
# What the step saves for the backward pass outweighs the weights (long sequences, large batches, a small model): quantization does not touch it. Or the layer was written in plain PyTorch, and autograd keeps each dequantized weight.
#
# </details>
# <details><summary>3. Why does the gradient not flow into the codes, and why does nobody miss it?</summary>
#
# Rounding is a staircase: its slope is zero almost everywhere, so no gradient could come through. The base is frozen anyway. The gradient passes *through* the layer, as g W', to the adapters below.
#
# </details>
#
# ## Reading
#
# - Dettmers et al. 2023, [QLoRA](https://arxiv.org/abs/2305.14314): section 3 is this lesson; appendix E lists the sixteen values.
# - Dettmers et al. 2022, [LLM.int8()](https://arxiv.org/abs/2208.07339): vector-wise int8, and outliers in activations, which are the harder problem.
# - Yoshida 2023, [NF4 Isn't Information Theoretically Optimal (and that's Good)](https://arxiv.org/abs/2306.06965): what blocks do to the distribution.
# - Li et al. 2023, [LoftQ](https://arxiv.org/abs/2310.08659): algorithm 1.
# - Dettmers 2015, [8-Bit Approximations for Parallelism in Deep Learning](https://arxiv.org/abs/1511.04561): the 8-bit numbers with a moving exponent that double quantization
#   stores the absmax in.
# - Kim et al. 2023, [Memory-Efficient Fine-Tuning of Compressed Large Language Models](https://arxiv.org/abs/2305.14152): no adapter at all; what is trained are the scales of the quantized weights.
# - Lesson 09 is about the rest of the memory: what a step saves, and how to save less.
