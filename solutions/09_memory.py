# %% [markdown]
# # 09 · Where the memory goes
#
# **The question.** Training needs several times the memory of the model itself. Which bytes are they, and which of them can you do without?
#
# **What you will be able to do**
# - write the memory bill of a training step from a formula, plan it for a model you could never load, and weigh it on one that you can;
# - list what autograd keeps for the backward pass, storage by storage;
# - compute the loss of a large vocabulary without ever holding its logits;
# - checkpoint blocks, say what that costs in time, and recognise three ways of doing it that save nothing or break training;
# - take apart a claim such as "8.2 GB down to 2.4 GB".
#
# **Time and memory.** About 110 minutes, most of them yours: the cells take about a minute and a half on two CPU cores, and about 2.2 GiB of memory.

# %%
import statistics
import time
import warnings
from contextlib import nullcontext
from functools import partial

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_course import AdapterConfig, adapters, inject, make_optimizer
from lora_course.adapters import LoRA
from lora_course.adapters.fused import plain_forward
from lora_course.assets import load_causal_lm, load_encoder, load_reviews
from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.memory import measure, plan
from lora_course.memory.checkpointing import checkpoint_blocks, undo_checkpointing
from lora_course.memory.chunking import chunked_lm_loss, chunked_over_tokens
from lora_course.memory.live import LiveBytes
from lora_course.products import as_torch_multiplies, mkl_leaves_avx512_idle
from lora_course.teaching.exercises import check
from lora_course.teaching.profiles import by_profile, current_profile
from lora_course.training.config import TrainingConfig
from lora_course.training.loop import fit

BLUE, ORANGE, GREEN, YELLOW, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#555555"
MIB = 2**20
device = choose_device()
print(describe_device(device))
print(f"profile: {current_profile()}")

# %% [markdown]
# ## Four entries on the bill
#
# | what | how much | when it is there |
# |---|---|---|
# | weights | every number of the model, trained or not | always |
# | gradients | one for each *trained* number | from the backward pass until they are cleared |
# | optimizer state | what the optimizer remembers of each trained number: AdamW two numbers, SGD none | from the first step on |
# | activations | what the backward pass needs of the forward pass | from the forward pass until the backward pass has used it |
#
# Three of them follow from counting parameters. The fourth depends on the batch, on the length of the texts, and on every operation in
# the model; no formula over parameters knows it. LoRA shrinks the middle two. Keep that in mind for the end of the lesson.
#
# ## Exercise 09.1 · The part of the bill that needs no measuring
#
# ★ · 8 minutes
#
# Write `fixed_bytes(frozen, trained, base_bytes=4, optimizer="adamw")`. The model has `frozen` numbers that are stored in `base_bytes` bytes
# each (4 in float32, 2 in bfloat16, half a byte if quantized to 4 bits), and `trained` numbers, which stay in float32 with all that
# belongs to them. The optimizer is `"sgd"`, `"momentum"` (SGD with one running mean a number) or `"adamw"`. Return three sizes in bytes:
# weights, gradients, optimizer state.
#
# <details><summary>Nudge</summary>
#
# Ask of each entry: does it exist for frozen numbers too?
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# Only weights do. They have two parts with two sizes a number.
#
# </details>
# <details><summary>Outline</summary>
#
# weights = base_bytes · frozen + 4 · trained; gradients = 4 · trained; state = (0, 1 or 2) · 4 · trained.
#
# </details>


# %% exercise="09.1"
def fixed_bytes(
    frozen: int, trained: int, base_bytes: float = 4, optimizer: str = "adamw"
) -> tuple[float, float, float]:
    """(weights, gradients, optimizer state) in bytes; what is trained is in float32."""
    ### BEGIN SOLUTION
    remembered = {"sgd": 0, "momentum": 1, "adamw": 2}[optimizer]
    return base_bytes * frozen + 4 * trained, 4 * trained, remembered * 4 * trained
    ### END SOLUTION


# %% check="09.1"
fixed_bytes = check("09.1", fixed_bytes)

# %% tags=["nbval-check-output"]
everything, lora = 109_483_778, 294_912  # bert-base with two labels; LoRA r=8 on query and value
print("bert-base, MiB           weights  gradients  optimizer")
for name, frozen, trained, size in (
    ("all trained, AdamW", 0, everything, 4),
    ("all trained, SGD", 0, everything, 4),
    ("LoRA, base in float32", everything, lora, 4),
    ("LoRA, base in bfloat16", everything, lora, 2),
    ("LoRA, base in 4 bits", everything, lora, 0.5),
):
    bill = fixed_bytes(frozen, trained, size, "sgd" if "SGD" in name else "adamw")
    print(f"{name:24s}" + "".join(f"{entry / MIB:9.1f}" for entry in bill))

# %% [markdown]
# ## Planned and weighed
#
# `plan` predicts all four entries without allocating anything: it runs the real model code on tensors that have a shape and no contents.
# `measure` takes a real step and counts. Here are both, for the packaged encoder (six BERT layers, width 384), 16 texts of 64 tokens.


# %%
TARGETS = ["query", "key", "value", "dense"]
LORA = AdapterConfig(rank=8, alpha=16, target_modules=TARGETS, trainable=["classifier"])


def encoder(config: AdapterConfig | None = LORA, layer=None):
    """The packaged encoder, adapted, ready to train; the same random numbers each time."""
    seed_everything(0)
    model, _ = load_encoder("packaged", progress=False)
    if config:
        inject(model, config, layer=layer)
    return model.to(device).train()


def encoder_batch(examples: int = 16, tokens: int = 64):
    ids = torch.randint(1000, 30000, (examples, tokens), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, tokens // 2 :] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(examples) % 2}
    return {name: tensor.to(device) for name, tensor in batch.items()}


weighed = {
    name: measure(encoder(config), encoder_batch())
    for name, config in {"full": None, "lora": LORA}.items()
}
planned = {
    name: plan("minilm", config, batch=16, sequence=64)
    for name, config in {"full": None, "lora": LORA}.items()
}
weighed["lora"]


# %%
def entries(step) -> dict[str, int]:
    """The bill in the order in which a step runs it up."""
    return {
        "weights": step.parameters + step.buffers,
        "activations": step.saved,
        "gradients": step.gradients,
        "optimizer": step.optimizer_state,
    }


fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharex=True, sharey=True)
for ax, name, title in zip(
    axes, ("full", "lora"), ("everything trained", "LoRA r=8"), strict=True
):
    for what, offset, color in ((planned, -0.19, YELLOW), (weighed, 0.19, BLUE)):
        start = 0.0
        for row, size in enumerate(entries(what[name]).values()):
            label = ("planned" if what is planned else "measured") if row == 0 else None
            ax.barh(row + offset, size / MIB, left=start, height=0.36, color=color, label=label)
            if what is weighed:
                ax.text(
                    start + size / MIB + 4, row, f"{size / MIB:.1f}", va="center", fontsize=9,
                    bbox=dict(facecolor="white", edgecolor="none", pad=1),
                )  # fmt: skip
            start += size / MIB
    ax.axvline(
        weighed[name].peak / MIB, color="black", linestyle=":", label="measured peak"
    )
    ax.set(title=title, xlabel="MiB, one entry after the other")
axes[0].set_yticks(range(4), entries(weighed["full"]))
axes[0].invert_yaxis()
axes[0].set_xlim(0, 1.15 * sum(entries(weighed["full"]).values()) / MIB)
axes[1].legend(loc="upper right", fontsize=8)
fig.tight_layout()
plt.show()

for name in planned:
    for entry, size in entries(planned[name]).items():
        real = entries(weighed[name])[entry]
        print(f"{name}: {entry:11s} planned {size:11,d}  measured {real:11,d}  off by {abs(size - real) / real:.2%}")

# %% [markdown]
# Two things to see. Gradients and optimizer state shrink to slivers under LoRA, and **the activations do not**: a frozen layer still has to
# carry the gradient back to the adapters below it, and attention, GELU and the norms keep for that what they always keep. And where
# everything is trained, no moment needs the whole sum, since activations are given up as gradients are made. With LoRA there are few gradients to trade: the
# peak is the sum and a little more, for what the layer that the backward pass is in needs beside its entries.
#
# One thing you cannot see: the first step flatters. The optimizer's state is born at its end, so the first backward pass does without it. From
# the second step on it is there all the time, and a run that went well for one step can die in the second. So `plan` and `measure` speak of the
# second step and all after it. Two real steps, to see whether they do:


# %%
def peaks_of_two_steps(model, batch) -> list[int]:
    optimizer = make_optimizer(model, lr=1e-3)
    peaks = []
    with LiveBytes([*model.parameters(), *model.buffers(), *batch.values()]) as live:
        for _ in range(2):
            loss = model(**batch).loss
            loss.backward()
            del loss
            optimizer.step()
            optimizer.zero_grad()
            peaks.append(live.peak_so_far())
    return peaks


for name, config in (("full", None), ("lora", LORA)):
    first, second = peaks_of_two_steps(encoder(config), encoder_batch())
    print(
        f"{name}: peak of the first step {first / MIB:6.1f} MiB, of the second {second / MIB:6.1f}; "
        f"planned {planned[name].peak / MIB:6.1f}"
    )

# %% [markdown]
# ## What is kept, tensor by tensor
#
# ## Exercise 09.2 · What autograd keeps
#
# ★★★ · 20 minutes
#
# Lesson 05 gave you a scale. Now build one that lists. Write `saved_sizes(run, own)`: call `run()` once inside
# `torch.autograd.graph.saved_tensors_hooks(pack, unpack)`, and return a list of sizes in bytes, one for each *storage* that is kept, in the order in which
# they were first saved. `own` are the model's weights, which are there anyway: their storages do not count. The backward pass must still work
# afterwards.
#
# Three traps. A tensor may be saved by several operations. Two tensors may be views of one storage. And a view of three rows keeps the
# *whole* storage alive.
#
# <details><summary>Nudge</summary>
#
# `pack(tensor)` sees each tensor that is saved; what it returns goes to `unpack` in the backward pass, which must give the tensor back.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `tensor.untyped_storage()` is the memory behind a tensor, the same for all its views: `.data_ptr()` is its address and `.nbytes()` its size. An
# address can be used again once its storage is gone, so hold on to the storage.
#
# </details>
# <details><summary>Outline</summary>
#
# A dictionary from address to storage, filled in `pack` unless the address is one of `own`'s. `pack` and `unpack` return what they are given. A
# dictionary remembers the order.
#
# </details>


# %% exercise="09.2"
def saved_sizes(run, own: list[torch.Tensor]) -> list[int]:
    """Bytes of every storage that autograd keeps while run() computes, those of `own` left out."""
    ### BEGIN SOLUTION
    weights = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return [storage.nbytes() for storage in kept.values()]
    ### END SOLUTION


# %% check="09.2"
saved_sizes = check("09.2", saved_sizes)

# %% [markdown]
# Use it on one whole block of the encoder. The unit of the table is the size of the block's input, N · d numbers:

# %%
model, batch = encoder(), encoder_batch()
x = torch.randn(16, 64, 384, device=device, requires_grad=True)
block = model.bert.encoder.layer[0]
sizes = saved_sizes(lambda: block(x), [*block.parameters(), *block.buffers()])
units = [size / x.nbytes for size in sizes]
print(f"one block keeps {len(sizes)} storages, {sum(sizes) / MIB:.1f} MiB, {sum(units):.1f} times its input:")
print("  " + "  ".join(f"{unit:.2f}" for unit in units))
print("\nin the whole model, by kind of module, where it was saved first:")
for kind, size in list(measure(model, batch).saved_by_kind().items())[:7]:
    print(f"  {size / MIB:7.2f} MiB  {kind}")

# %% [markdown]
# Read the list with the block in mind. A 4.00 is something as wide as the inside of the MLP, which is four times as wide as the model. A 2.00 is
# attention: a number for each pair of tokens in each of 12 heads, here 64 · 64 · 12 for each 64 · 384, and it grows with the *square* of the length. (Kernels
# that never write these numbers down exist; with dropout in attention the CPU has none.) The tiny ones are the rank-r products of the adapters
# and the two numbers a token that a layer norm keeps. No single tensor is to blame; there are simply many, in each of the layers.

# %% [markdown]
# ## The adapter's own share, written twice
#
# What the adapter adds to that list depends on who writes the backward pass. Written as its equation, $h = Wx + b + s\,B(A\,\mathrm{drop}(x))$,
# autograd makes the branch, the branch times $s$ and the sum, each as large as the output; and with dropout it draws a mask and keeps a dropped copy of $x$
# for *each* layer. Written as one `autograd.Function` with its own backward (`lora_course/adapters/fused.py`, one page), the small product comes first, the large one is
# added to it in place, and three layers that read one $x$ share one mask of a byte an entry and one copy. The package trains with the second and keeps the first
# as `plain_forward()`.
#
# Who writes the backward pass may also choose who multiplies. torch hands float32 products to Intel's MKL, which on processors of another maker leaves
# AVX-512 unused; oneDNN, which torch brings along as well, does not. Where that is so, the package's steps use oneDNN (`lora_course/products.py`). That is a gain
# of another kind, so the table has it in a column of its own. Same layers, same input, all ways in turn:


# %%
def project(layers: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
    return sum(layer(x).square().mean() for layer in layers)


def one_step(layers: nn.ModuleList, x: torch.Tensor) -> list[torch.Tensor]:
    """Forward and backward; returns every gradient, that of x first."""
    wanted = [x, *(p for p in layers.parameters() if p.requires_grad)]
    return torch.autograd.grad(project(layers, x), wanted)


ROUNDS = by_profile(smoke=3, cpu=31, full=31)
WAYS = {"equation": plain_forward, "by hand": as_torch_multiplies, "as it trains": nullcontext}
rows = []
for method, dropout in (("lora", 0.0), ("lora", 0.1), ("dora", 0.0), ("dora", 0.1)):
    seed_everything(0)
    layers = nn.ModuleList([nn.Linear(768, 512) for _ in range(3)]).to(device)
    inject(layers, AdapterConfig(method, rank=8, alpha=16, target_modules="all-linear", dropout=dropout))
    for adapter in layers:
        nn.init.normal_(adapter.lora_B, std=0.02)  # as if it had learned something
    x = torch.randn(512, 768, device=device, requires_grad=True)
    gradients, kept, seconds = {}, {}, {way: [] for way in WAYS}
    for turn in range(ROUNDS + 2):
        for way in seconds:
            with WAYS[way]():
                start = time.perf_counter()
                gradients[way] = one_step(layers, x)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if turn >= 2:
                    seconds[way].append(time.perf_counter() - start)
                if turn == 0:
                    own = [*layers.parameters(), *layers.buffers(), x]
                    kept[way] = sum(saved_sizes(lambda layers=layers, x=x: project(layers, x), own))
    right = gradients.pop("equation")
    pairs = [pair for others in gradients.values() for pair in zip(right, others, strict=True)]
    apart = max(((a - b).abs().max() / a.abs().max()).item() for a, b in pairs)
    assert dropout or apart < 1e-4, "the ways do not agree"
    times = {way: statistics.median(taken) / statistics.median(seconds["equation"]) for way, taken in seconds.items()}
    rows.append((method, dropout, kept, times, apart))

print(f"three layers 768 -> 512 that share x, 512 tokens, {describe_device(device)}, {ROUNDS} steps in turn")
print(f"products as it trains: {'oneDNN' if mkl_leaves_avx512_idle() and device.type == 'cpu' else 'torch.mm'}, else torch.mm")
print(f"{'':15}{'kept, equation':>18}{'by hand':>12}{'gradients differ by':>22}{'time by hand':>15}{'as it trains':>15}")
for method, dropout, kept, times, apart in rows:
    differ = f"{apart:.0e}" if dropout == 0 else "other masks"
    print(
        f"{method:8}{dropout:7g}{kept['equation'] / MIB:14.2f} MiB{kept['by hand'] / MIB:8.2f} MiB{differ:>22}"
        f"{times['by hand']:15.2f}{times['as it trains']:15.2f}"
    )
print("times as a share of the equation's")

# %% [markdown]
# The gradients are the same up to rounding, so it is a pure gain. With dropout each way draws masks of its own, which cannot be compared entry by entry; the tests
# do so with one mask for both. `lora-course bench overhead` holds the ways of the last two columns against PEFT's layers on whole models, and BENCHMARKS.md has the table.
#
# Still, most of the list was never the adapter's. So there are two remedies. Where *one* tensor is far too wide, compute it in pieces. Where there are many, throw them away and compute them again.
#
# ## Something too wide: the logits
#
# SmolLM2 has a width of 576 and a vocabulary of 49 152. For 1 024 tokens, the hidden states before the output layer take 2.25 MiB, and
# the logits behind it 192 MiB. `cross_entropy` keeps their log-softmax, another 192, and its backward pass makes two more. No
# other layer is near that. But look at the mathematics. With $z_i = W h_i$, $y_i$ the target of token $i$ and $n$ the number of targets,
#
# $$\text{loss} = \frac1n \sum_i \Big( \log \sum_v e^{z_{iv}} - z_{i y_i} \Big), \qquad
# \frac{\partial\,\text{loss}}{\partial h_i} = \frac1n\, \big(\mathrm{softmax}(z_i) - e_{y_i}\big)\, W$$
#
# where $e_{y}$ is the one-hot vector. Token $i$ needs its own logits and nobody else's. And its gradient is known as soon as its loss is: there is
# no need to wait for the backward pass, and nothing as wide as the vocabulary to keep for it.
#
# ## Exercise 09.3 · A loss without its logits
#
# ★★★ · 25 minutes
#
# Write `chunked_loss(hidden, weight, labels, chunk)`: `hidden` (N, d), `weight` (V, d), `labels` (N) with -100 for tokens that are no target. Go
# through the tokens `chunk` at a time. Return the mean loss over the targets, and its gradient with respect to `hidden`, (N, d). No tensor may be larger
# than the logits of one chunk, and no autograd is needed.
#
# <details><summary>Nudge</summary>
#
# n is known before the loop: count the labels that are not -100. Each chunk adds to the loss, and fills its own rows of the gradient.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `z.logsumexp(-1)` does not overflow, and `(z - lse[:, None]).exp()` is the softmax. Labels of -100 cannot be used as an index: put a 0 there, and
# multiply by 0 what comes out of those rows.
#
# </details>
# <details><summary>Outline</summary>
#
# For each slice of rows: z = h Wᵀ; lse; add sum(counted · (lse − z[target])) / n to the loss; p = softmax; subtract 1 at [row, target]; multiply
# the rows by counted / n; gradient rows = p W.
#
# </details>


# %% exercise="09.3"
def chunked_loss(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean cross entropy of hidden @ weight.T over labels that are not -100, its gradient for hidden)."""
    ### BEGIN SOLUTION
    n = (labels != -100).sum()
    loss, gradient = 0.0, torch.zeros_like(hidden)
    for start in range(0, len(hidden), chunk):
        rows = slice(start, start + chunk)
        counted = (labels[rows] != -100).to(hidden.dtype) / n  # (C,)
        target = labels[rows].clamp(min=0)[:, None]  # (C, 1)
        z = hidden[rows] @ weight.T  # (C, V)
        lse = z.logsumexp(-1, keepdim=True)  # (C, 1)
        loss = loss + (counted[:, None] * (lse - z.gather(1, target))).sum()
        p = z.sub_(lse).exp_()  # (C, V), in place
        p.scatter_add_(1, target, -torch.ones_like(lse))
        gradient[rows] = (counted[:, None] * p) @ weight
    return loss, gradient
    ### END SOLUTION


# %% check="09.3"
chunked_loss = check("09.3", chunked_loss)

# %% [markdown]
# Ten lines make it a loss that autograd can use. Then the scales, on SmolLM2's shape with a frozen output layer, as LoRA leaves it:


# %%
class LossInChunks(torch.autograd.Function):
    """Your loss; its gradient is computed in the forward pass and waits."""

    @staticmethod
    def forward(ctx, hidden, weight, labels, chunk):
        with torch.no_grad():
            loss, gradient = chunked_loss(hidden, weight, labels, chunk)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx, grad):
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None, None


tokens, vocabulary = by_profile(smoke=(64, 4096), cpu=(1024, 49152), full=(1024, 49152))
head = nn.Linear(576, vocabulary, bias=False).requires_grad_(False).to(device)
given = {
    "hidden": torch.randn(tokens, 576, device=device, requires_grad=True),
    "labels": torch.randint(vocabulary, (tokens,), device=device),
}


def plain(head, given):
    return F.cross_entropy(head(given["hidden"]), given["labels"])


def in_chunks(head, given, chunk=64):
    return LossInChunks.apply(given["hidden"], head.weight, given["labels"], chunk)


def seconds(run) -> float:
    start = time.perf_counter()
    run().backward()
    return time.perf_counter() - start


losses = {"whole logits": plain, "256 tokens at a time": partial(in_chunks, chunk=256), "64 tokens at a time": in_chunks}
print(f"{tokens} tokens, vocabulary {vocabulary}, {describe_device(device)}")
times = {name: [] for name in losses}
for _ in range(by_profile(smoke=1, cpu=3, full=5)):  # in turn, so that a busy moment hits all alike
    for name, loss in losses.items():
        times[name].append(seconds(lambda loss=loss: loss(head, given)))
for name, loss in losses.items():
    step = measure(head, given, loss)
    over = step.peak - step.parameters
    print(f"{name:21s} kept {step.saved / MIB:6.1f} MiB, peak {over / MIB:6.1f} MiB beside the weights, {statistics.median(times[name]):.2f} s")
difference = (plain(head, given) - in_chunks(head, given)).abs().item()
print(f"largest difference of the loss: {difference:.0e}")

# %% [markdown]
# The result is the same to rounding, and the peak a small fraction of what it was, for the same arithmetic. The package's version (`lora_course/memory/chunking.py`, one page) also computes the gradient of the
# weight where it is trained, and `chunked_lm_loss()` is that loss for any plain language model of transformers. A kernel that
# never writes a chunk to memory at all goes further (Wijmans et al. 2024).
#
# ## Bug lab · Chunking what is not wide
#
# A recipe one meets: let the LoRA branch go through its batch a few rows at a time, "to reduce the memory footprint".


# %%
class ThriftyLoRA(LoRA):
    """The branch computes `rows` examples at a time."""

    rows = 4

    def forward(self, x):
        parts = [
            F.linear(F.linear(part, self.lora_A), self.lora_B) * self.scaling
            for part in x.split(self.rows)
        ]
        return self.base_layer(x) + torch.cat(parts)


class WholeBatch(ThriftyLoRA):
    """The same operations on all examples at once."""

    rows = 16


# %% [markdown]
# **Predict.** The encoder with such layers, 16 texts. Compared with ordinary LoRA, does the step keep less for backward, the same, or more? What
# about its peak? And the time?
#
# transformers' own BERT has a setting of that kind, `chunk_size_feed_forward`: the MLP computes so many tokens at a time. Same question.
#
# **Run.**


# %%
def timed_steps(models: dict, batch, rounds: int, loss=None) -> dict[str, float]:
    """Median seconds of forward and backward of each model, taken in turn after one step to warm up."""
    taken = {name: [] for name in models}
    for number in range(rounds + 1):
        for name, model in models.items():
            model.zero_grad()
            start = time.perf_counter()
            (loss(model, batch) if loss else model(**batch).loss).backward()
            if number:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


chunked_mlp = encoder(layer=WholeBatch)
for block in chunked_mlp.bert.encoder.layer:
    block.chunk_size_feed_forward = 16  # of 64 tokens
models = {
    "LoRA, 16 rows at once": encoder(layer=WholeBatch),
    "4 rows at a time": encoder(layer=ThriftyLoRA),
    "BERT's own chunked MLP": chunked_mlp,
}
taken = timed_steps(models, encoder_batch(), rounds=by_profile(smoke=1, cpu=3, full=15))
for name, model in models.items():
    step = measure(model, encoder_batch())
    print(f"{name:23s} kept {step.saved / MIB:6.1f} MiB, peak of the backward pass {step.phase_peaks['backward'] / MIB:6.1f} MiB, {taken[name]:.3f} s")

# %% [markdown]
# **Explain.** What is kept is the same to the byte, the peak moves by a percent or two, and the time by what smaller pieces cost. Every part needs *its* tensors in the backward pass, and the backward pass comes when all parts are done: the
# parts add up to exactly what the whole kept. Pieces save memory only if something is *given up* between them. In the loss it is the
# logits: each chunk hands on a gradient of width 576 and forgets what was 49 152 wide. (BERT's setting was made
# for inference, where there is no backward pass to wait for.)
#
# The recipe comes with a formula, too: bytes saved = (d·k − r·(d + k)) · 4. That compares the adapter's weights with the layer's own. But the
# layer's own weights are still there; LoRA *adds* its numbers to them. What shrinks is the gradient and the optimizer's state: 09.1.
#
# **Fix.** To chunk an MLP in training, forget its inside and compute it again, chunk by chunk:

# %%
def in_chunks(mlp):
    def forward(attention_output):
        return chunked_over_tokens(mlp, attention_output, 256)

    return forward


forgetful = encoder(layer=WholeBatch)
for block in forgetful.bert.encoder.layer:
    block.feed_forward_chunk = in_chunks(block.feed_forward_chunk)
step = measure(forgetful, encoder_batch())
print(f"MLP computed again, 256 tokens at a time: kept {step.saved / MIB:.1f} MiB, peak of the backward pass {step.phase_peaks['backward'] / MIB:.1f} MiB")

# %% [markdown]
# That is the second remedy already.
#
# ## Many things: throw away and compute again
#
# A stack of L blocks keeps L times the inside of a block. Keep only each block's *input*, and when the backward pass arrives at a block, run it
# forward once more, this time with everything kept, and go back through it. At any moment the inside of one block is there, beside L inputs. The price is one
# more forward pass. Where everything is trained, a backward pass costs about two of them (a product for the gradient of x, one for the gradient of W),
# so that is about a third more time. With LoRA the second product falls away, the backward pass costs about one forward pass, and the price is
# rather a *half*. This is checkpointing (Chen et al. 2016).
#
# ## Exercise 09.4 · A block that is computed twice
#
# ★★★ · 25 minutes
#
# Write it as an autograd Function. `Recompute.apply(x, block)` gives `block(x)`, keeps x alone, and gives in the backward pass what `block` would have
# given: the gradient of x is returned, and the gradients of the block's parameters arrive in their `.grad`.
#
# Inside `forward` of a Function gradients are off, so nothing in there is recorded. Inside `backward` they are off as well: `torch.enable_grad()` switches
# them on. Dropout must throw the same dice in the second pass: `torch.get_rng_state()` beforehand, `torch.set_rng_state(...)` for the second pass, and
# `torch.random.fork_rng()` around it, which afterwards puts the generator back to where it was. (On a GPU there is a second generator to look after. The
# package's way does.)
#
# <details><summary>Nudge</summary>
#
# In `backward`, make the little graph that `forward` did not make: from a fresh leaf with x's values to the block's output. Then go backward through it.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `x.detach().requires_grad_()` is such a leaf. `y.backward(grad)` starts from the gradient that arrived, and fills the `.grad` of the leaf and of every
# parameter.
#
# </details>
# <details><summary>Outline</summary>
#
# forward: remember block and generator state in ctx, save x, return block(x). backward: leaf; with fork_rng and enable_grad: set the state, y = block(leaf);
# y.backward(grad); return leaf.grad and a None for `block`.
#
# </details>


# %% exercise="09.4"
class Recompute(torch.autograd.Function):
    """block(x), of which nothing but x is kept."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, block: nn.Module) -> torch.Tensor:
        ### BEGIN SOLUTION
        ctx.block, ctx.random = block, torch.get_rng_state()
        ctx.save_for_backward(x)
        return block(x)
        ### END SOLUTION

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        """grad: the gradient of the output. Returns the gradient of x, and None for the block."""
        ### BEGIN SOLUTION
        (x,) = ctx.saved_tensors
        leaf = x.detach().requires_grad_()
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(ctx.random)
            y = ctx.block(leaf)
        y.backward(grad)
        return leaf.grad, None
        ### END SOLUTION


# %% check="09.4"
Recompute = check("09.4", Recompute)

# %%
class Stack(nn.Module):
    """Blocks one after the other, each run by `run(x, block)`."""

    def __init__(self, depth: int, run):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
            for _ in range(depth)
        )
        self.run = run

    def forward(self, x):
        for block in self.blocks:
            x = x + self.run(x, block)
        return x.square().mean()


def as_usual(x, block):
    return block(x)


depths, found = (1, 2, 4, 8, 16), {"as usual": [], "your Recompute": []}
x = torch.randn(512, 64, requires_grad=True)
for depth in depths:
    for name, run in zip(found, (as_usual, Recompute.apply), strict=True):
        step = measure(Stack(depth, run), x, lambda stack, x: stack(x))
        found[name].append((step.saved / MIB, (step.phase_peaks["backward"] - step.parameters - step.optimizer_state) / MIB))

fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
for ax, which, title in zip(axes, (0, 1), ("kept for backward", "peak of the backward pass\nwithout weights and Adam's state"), strict=True):
    for (name, values), color, marker in zip(found.items(), (ORANGE, BLUE), "os", strict=True):
        ax.plot(depths, [v[which] for v in values], marker=marker, color=color, label=name)
    ax.set(xlabel="blocks", title=title)
axes[0].set_ylabel("MiB")
axes[0].legend()
fig.tight_layout()
plt.show()

# %% [markdown]
# Both lines are straight, but the slope of yours is one input a block. The peak starts higher up: the inside of one block, which is there while the
# backward pass is in it.
#
# ## Bug lab · Three ways not to checkpoint
#
# Here are three, all seen in the wild, for an encoder with a frozen base, LoRA in its blocks and a trained head:
#
# 1. the branch is wrapped: `base(x) + checkpoint(branch, x)` in each LoRA layer;
# 2. the blocks are wrapped, with `checkpoint` as it has been called for years, `checkpoint(block, x)`;
# 3. `@checkpoint` as a decorator above a function. (A decorator is called with the function alone, so `checkpoint` runs the function on the spot, without
#    its input: a TypeError. You see that one at once.)


# %%
class CheckpointedBranch(LoRA):
    """1. What is computed again is the branch."""

    def forward(self, x):
        def branch(x):
            return F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scaling

        return self.base_layer(x) + checkpoint(branch, x, use_reentrant=False)


def checkpoint_by_hand(model):
    """2. What is computed again is the block."""

    def computed_again(forward, x, *others, **named):
        return checkpoint(lambda x: forward(x, *others, **named), x)

    for block in model.bert.encoder.layer:
        block.forward = partial(computed_again, block.forward)
    return model


# %% [markdown]
# **Predict.** For 1 and 2: what is kept for backward, compared with no checkpointing? And how many of the adapters get a gradient?
#
# **Run.**

# %%
models = {
    "no checkpointing": encoder(layer=WholeBatch),
    "1. the branch": encoder(layer=CheckpointedBranch),
    "2. checkpoint(block, x)": checkpoint_by_hand(encoder(layer=WholeBatch)),
}
for name, model in models.items():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        step = measure(model, encoder_batch())
        model(**encoder_batch()).loss.backward()
    trained = [layer.lora_B.grad is not None for layer in adapters(model).values()]
    print(f"{name:24s} kept {step.saved / MIB:6.2f} MiB, adapters with a gradient: {sum(trained)} of {len(trained)}")
    for words in sorted({str(w.message).split(". ")[0] for w in said}):
        print(f"    warning: {words[:110]}")

# %% [markdown]
# **Explain.** (1) saves next to nothing: all it can throw away is the r numbers a token between A and B. It computes more and saves what was
# never the problem. Ask first what is *kept*, then wrap that.
#
# (2) saves a lot, and trains nothing but the head and the one adapter that comes after the blocks, the pooler's. Left to itself, `checkpoint` is the *reentrant* kind, built like your `Recompute`: an autograd
# Function whose output wants a gradient if its *input* does. The input of the first block comes from a frozen embedding and wants none. So
# its output wants none either, nor does the next block's, and the adapters inside are never asked. The loss goes down a little, since the head
# learns. torch does warn, once, among all the other lines of a training log.
#
# Does your own Recompute have the flaw? It does, and it is no mistake of yours: a Function sees its arguments, not the parameters inside the block.

# %% tags=["nbval-check-output"]
seed_everything(0)
tiny = nn.Linear(3, 2)
for wants in (True, False):
    y = Recompute.apply(torch.randn(4, 3, requires_grad=wants), tiny)
    print(f"x wants a gradient: {wants!s:5}  so does the output: {y.requires_grad}")

# %% [markdown]
# **Fix.** `use_reentrant=False`, around whole blocks. That variant needs no Function: it notes which tensors the block *would* keep, throws them away, and
# computes them when somebody asks. `checkpoint_blocks` does it for every model whose blocks stand in an `nn.ModuleList`, refuses what would go wrong, and
# can be taken back:

# %%
model = encoder()
before = measure(model, encoder_batch())


def gradients(model):
    seed_everything(3)  # the same dropout
    model.zero_grad()
    model(**encoder_batch()).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


right = gradients(model)
names = checkpoint_blocks(model)
after = measure(model, encoder_batch())
same = all(torch.equal(gradient, right[name]) for name, gradient in gradients(model).items())
print(f"{len(names)} blocks: kept {before.saved / MIB:.1f} MiB, then {after.saved / MIB:.1f} MiB")
print(f"gradients equal, bit for bit, dropout included: {same}")
undo_checkpointing(model)
print(f"taken back: kept {measure(model, encoder_batch()).saved / MIB:.1f} MiB")

# %% [markdown]
# ## The real run: what does it cost?
#
# SmolLM2, 30 blocks, LoRA in all linear layers. Both remedies, and checkpointing in doses: every third block, every other one, all.

# %%
config = AdapterConfig(rank=8, alpha=16, target_modules="all-linear")
seed_everything(0)
language_model, tokenizer = load_causal_lm("packaged", progress=False)
inject(language_model, config)
language_model.to(device).train()
reviews = load_reviews("rotten_tomatoes")
texts = [text for text in reviews["train"]["text"][:400]]
length = by_profile(smoke=8, cpu=64, full=512)
ids = torch.tensor(tokenizer(" ".join(texts))["input_ids"][: 2 * length]).view(2, length).to(device)
lm_batch = {"input_ids": ids, "labels": ids.clone()}


def own_loss(model, batch):
    return model(**batch).loss


settings = {
    "nothing": (own_loss, None),
    "loss in chunks": (chunked_lm_loss(), None),
    "+ every 3rd block": (chunked_lm_loss(), 3),
    "+ every 2nd block": (chunked_lm_loss(), 2),
    "+ every block": (chunked_lm_loss(), 1),
}
steps, taken = {}, {name: [] for name in settings}
rounds = by_profile(smoke=1, cpu=3, full=10)
for number in range(rounds + 1):
    for name, (loss, every) in settings.items():
        if every:
            checkpoint_blocks(language_model, every)
        if not number:
            steps[name] = measure(language_model, lm_batch, loss)
        language_model.zero_grad()
        start = time.perf_counter()
        loss(language_model, lm_batch).backward()
        if number:
            taken[name].append(time.perf_counter() - start)
        if every:
            undo_checkpointing(language_model)

first = statistics.median(taken["nothing"])
print(f"2 x {length} tokens, {describe_device(device)}, median of {rounds}")
for name, step in steps.items():
    t = statistics.median(taken[name])
    print(f"{name:18s} kept {step.saved / MIB:6.1f} MiB, peak {step.peak / MIB:7.1f} MiB (weights {step.parameters / MIB:.0f}), {t:5.2f} s, x {t / first:.2f}")

# %%
fig, ax = plt.subplots(figsize=(7, 3.8))
for (name, step), color, marker in zip(steps.items(), (GREY, YELLOW, GREEN, ORANGE, BLUE), "osD^v", strict=True):
    t = statistics.median(taken[name]) / first
    low, high = min(taken[name]) / first, max(taken[name]) / first
    ax.errorbar(t, step.saved / MIB, xerr=[[t - low], [high - t]], fmt=marker, color=color, capsize=3, label=name)
ax.axvline(3 / 2, color="black", linestyle=":", label="one more forward pass, frozen base")
ax.set(
    xlabel="time of forward and backward, as a multiple (bars: fastest and slowest)",
    ylabel="MiB kept for backward",
    title=f"SmolLM2, LoRA r=8, 2 x {length} tokens",
    ylim=(0, None),
)
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# Checkpointing is a dial. Turn it until the step fits, and no further, since every block costs its share of a forward pass. (The bars show how far to trust a
# time on a machine that does other things as well; the bytes are exact.) The loss in chunks costs about nothing, and gains more the more tokens there are.
#
# Does the model learn the same? It must: the gradients are the same numbers. Some steps each way, the same sentences:

# %%
def train(loss, every: int | None):
    seed_everything(0)
    model, _ = load_causal_lm("packaged", progress=False)
    inject(model, config)
    model.to(device)
    if every:
        checkpoint_blocks(model, every)
    count = by_profile(smoke=1, cpu=6, full=50)
    examples = [{"input_ids": tokenizer(text)["input_ids"]} for text in texts[: 4 * count]]

    def collate(rows):
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), width), tokenizer.pad_token_id)
        labels = torch.full((len(rows), width), -100)
        for i, row in enumerate(rows):
            ids[i, : len(row["input_ids"])] = labels[i, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        return {"input_ids": ids, "attention_mask": (labels != -100).long(), "labels": labels}

    training = TrainingConfig(epochs=1, batch_size=4, learning_rate=1e-3, seed=0)
    return fit(model, examples, collate, training, loss=loss, progress=False)


del language_model
histories = {"own loss, nothing checkpointed": train(own_loss, None), "loss in chunks, every block": train(chunked_lm_loss(), 1)}
for name, history in histories.items():
    print(f"{name:31s}" + " ".join(f"{row.loss:.4f}" for row in history.steps) + f"   {history.steps[-1].seconds:.0f} s")
one, other = ([row.loss for row in history.steps] for history in histories.values())
print(f"largest difference: {max(abs(a - b) for a, b in zip(one, other, strict=True)):.1e}")

# %% [markdown]
# ## Will it fit? Planning what you cannot load
#
# The same code, on shapes alone. First two numbers from papers. GPT-3 has 175 billion parameters; LoRA of rank 4 on query and value is said to train
# about 10 000 times fewer. (Here both are one layer with the key, `c_attn`: a pair of rank 4 on it, 4 · (d + 3d), has as many numbers as two pairs on layers of their own, 2 · 4 · (d + d).) And QLoRA is said to fine-tune a model of 65 billion on one GPU of 48 GB.

# %% tags=["nbval-check-output"]
gpt3 = plan("gpt3-175b", AdapterConfig(rank=4, target_modules=["c_attn"]), dtype=torch.float16)
print(f"GPT-3: {gpt3.all_numbers / 1e9:.1f} billion, trained {gpt3.trained_numbers:,}: {gpt3.all_numbers / gpt3.trained_numbers:,.0f} times fewer")
how = dict(dtype=torch.bfloat16, adapter_dtype=torch.float32, sequence=512)
qlora = AdapterConfig(rank=64, alpha=16)
print("\nLLaMA-65B, LoRA r=64 on all linear layers, one text of 512 tokens, GB:")
print(f"{'':42s} weights   kept   peak")
for name, more in (
    ("base in bfloat16", {}),
    ("base in NF4, double quantization", {"quantization": "nf4-double"}),
    ("base in NF4, blocks checkpointed", {"quantization": "nf4", "checkpointing": True}),
    ("both: double quantization, checkpointed", {"quantization": "nf4-double", "checkpointing": True}),
):
    step = plan("llama-65b", qlora, **how, **more)
    print(f"{name:42s} {step.parameters / 1e9:7.1f} {step.saved / 1e9:6.1f} {step.peak / 1e9:6.1f}")

# %% [markdown]
# Now a claim from a slide: fine-tuning with LoRA brought memory *down from 8.2 GB to 2.4 GB*. For which model, batch, length, dtype and phase, it does not say.
# At inference it cannot be: the base is all there, and LoRA adds to it. So it must be training. Is there a batch for which full fine-tuning
# takes 8.2 GB, and how much would LoRA take for *that* batch? Here are bert-base and gpt2-medium, in float32 with AdamW:

# %% tags=["nbval-check-output"]
def gigabytes(model: str, adapter: AdapterConfig | None, **how) -> float:
    return plan(model, adapter, **how).peak / 1e9


adapter = {"bert-base": AdapterConfig(target_modules=["query", "value"]), "gpt2-medium": AdapterConfig(target_modules=["c_attn"])}
print(f"{'peak, GB':14s}{'batch x tokens':>15s} {'full':>6s} {'LoRA':>6s} {'full, checkpointed':>19s} {'LoRA, checkpointed':>19s}")
for model, shapes in (("bert-base", ((8, 128), (24, 256))), ("gpt2-medium", ((1, 128), (1, 640)))):
    for examples, tokens in shapes:
        shape = {"batch": examples, "sequence": tokens}
        row = [
            gigabytes(model, None, **shape),
            gigabytes(model, adapter[model], **shape),
            gigabytes(model, None, **shape, checkpointing=True),
            gigabytes(model, adapter[model], **shape, checkpointing=True),
        ]
        print(f"{model:14s}{f'{examples} x {tokens}':>15s} {row[0]:6.1f} {row[1]:6.1f} {row[2]:19.1f} {row[3]:19.1f}")

# %% [markdown]
# So there *is* a batch of bert-base for which full fine-tuning peaks at 8.2 GB: 24 texts of 256 tokens. With LoRA in query and value it takes 6.0. The gradients and
# Adam's state of 109 million numbers are gone, 1.3 GB by 09.1, and some layers that are frozen no longer keep their input. To come below 2.4 GB you need
# the *other* remedy, checkpointing, and that one does it alone: look at full fine-tuning with its blocks checkpointed. gpt2-medium, where the fixed entries weigh more, needs both. For tiny batches the fixed entries
# are everything, and LoRA looks magnificent; the more text, the less it changes. Each of the two numbers may have been measured; a drop from one to the
# other is not what LoRA does for one and the same batch.
#
# A memory figure is a claim about a model, a batch, a length, a dtype, an optimizer and a checkpointing setting. Without them it is a number. The same goes for the
# 65-billion model above: on a card of 48 GiB, which is 51.5 GB, it fits with one text in the batch, and only in 4 bits
# with every block checkpointed; without double quantization barely. (The planned peak counts tensors. What CUDA and its allocator hold besides comes on top; the authors
# of QLoRA let the optimizer's state move to the host's memory at such moments.)
#
# **Try it.** The planner as a picture. *Plan* makes the plan, for large models in some seconds; *Largest batch* and *Largest rank* look for what still fits into the
# card chosen under *Must fit in*; *Measure it* takes the step for real, if it is small enough, and puts it beside the plan. Which settings, each
# alone, take llama-3-8b from "does not fit" to "fits" on a card of 24 GB?

# %%
from lora_course.teaching.widgets import memory_planner

memory_planner.static()

# %%
memory_planner.explore()

# %% [markdown]
# ## Self-test
#
# <details><summary>1. LoRA trains 0.3 % of the parameters. Why does it not need 0.3 % of the memory?</summary>
#
# Only gradients and optimizer state go with the number of trained parameters. The weights are all there, and the activations are kept almost as
# for full fine-tuning, since the gradient must pass through every frozen layer to reach the adapters below.
#
# </details>
# <details><summary>2. A layer in pieces: when does that save memory in training, and when not?</summary>
#
# It saves if something wide is given up between the pieces: because the gradient is computed at once (the loss) or because the piece is computed
# again later (checkpointing). If each piece keeps its tensors until the backward pass, their sum is what the whole would have kept.
#
# </details>
# <details><summary>3. You switch checkpointing on, the loss hardly moves, and most adapters have no gradient. What happened?</summary>
#
# The reentrant kind, around blocks whose input needs no gradient because the embedding is frozen. Use the non-reentrant kind, and make it a habit
# to count the gradients that are None after the first backward pass.
#
# </details>
#
# ## Reading
#
# - Chen et al. 2016, [Training Deep Nets with Sublinear Memory Cost](https://arxiv.org/abs/1604.06174): checkpointing, and what the second forward costs.
# - Korthikanti et al. 2022, [Reducing Activation Recomputation in Large Transformer Models](https://arxiv.org/abs/2205.05198): a formula for what a
#   transformer layer keeps, term by term, and which terms are worth computing again.
# - Wijmans et al. 2024, [Cut Your Losses in Large-Vocabulary Language Models](https://arxiv.org/abs/2411.09009): exercise 09.3 taken to its end, as a GPU kernel.
# - Dettmers et al. 2023, [QLoRA](https://arxiv.org/abs/2305.14314): the weights themselves, four times smaller. That is lesson 10.
