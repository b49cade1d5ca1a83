# %% [markdown]
# # 03 · LoRA inside a transformer
#
# **The question.** A model is hundreds of layers deep in other people's code. Which of them get an adapter, and how does it get there?
#
# **What you will be able to do**
# - write your own injection: find layers by name, replace them, freeze the rest, and refuse what would go wrong silently;
# - explain why patching `forward` in a loop trains nothing, and see it fail in four ways;
# - put LoRA inside `nn.MultiheadAttention`, whose projections are no layers, and into GPT-2's fused, transposed weights;
# - say what a choice of layers costs before you build it, and compare choices at equal cost, with the noise in view;
# - deal with tied weights, and hand your adapter to PEFT.
#
# **Time and memory.** About 100 minutes, most of them yours: the cells run for about a minute and a half on two CPU cores, and need about
# 1.5 GiB of memory.

# %%
import copy
import pickle
import statistics
import tempfile
import warnings
from collections import Counter
from time import perf_counter

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from lora_course import (
    AdapterConfig,
    adapters,
    eject,
    inject,
    merge,
    parameter_report,
    save_adapter,
    unmerge,
)
from lora_course.adapters import LoRA
from lora_course.adapters.attention import join_attention, split_attention
from lora_course.adapters.base import Adapter
from lora_course.assets import load_encoder, load_reviews
from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.teaching.exercises import check
from lora_course.teaching.profiles import by_profile, current_profile
from lora_course.training.config import TrainingConfig
from lora_course.training.sentiment import train_sentiment

device = choose_device()
print(describe_device(device))
print(f"profile: {current_profile()}")

# %% [markdown]
# ## Where the matrices are
#
# A transformer block (Vaswani et al. 2017) has two parts. Attention mixes positions; the MLP works on each position alone. With a row of $x$ for
# each position, as in the code, and without heads, biases, norms and residual connections:
#
# $$q = x W_q^\top \quad k = x W_k^\top \quad v = x W_v^\top \qquad h = \mathrm{softmax}\!\left(\frac{q k^\top}{\sqrt{d_{head}}}\right) v\, W_o^\top
# \qquad y = \phi(h\, W_{up}^\top)\, W_{down}^\top$$
#
# Six matrices, and each is a place for an adapter. They do different things: $W_q$ and $W_k$ decide *where* to look, $W_v$ and $W_o$
# *what* is carried from there, the MLP what is made of it. In code they have names, and each family of models has its own. Here are the
# layers of our encoder, by the last part of their names:

# %% tags=["nbval-check-output"]
seed_everything(0)
encoder, tokenizer = load_encoder("packaged", base_dropout=0.0)
found = Counter(
    (
        name.split("layer.")[-1].lstrip("0123456789.") if "layer." in name else name,
        tuple(module.weight.shape),
    )
    for name, module in encoder.named_modules()
    if isinstance(module, nn.Linear)
)
for (name, shape), count in found.items():
    print(f"{count} x {name:24s} weight (out, in) = {shape}")

# %% [markdown]
# ## Exercise 03.1 · Put adapters into a model
#
# ★★★ · 25 minutes
#
# `inject` has done this for you so far. Write it yourself: `put_adapters(model, suffixes, config)`
#
# - replaces, in place, every module whose full name is one of the suffixes or ends in a dot and that suffix, by `LoRA(module, config)`;
# - freezes everything else, so that only the adapters' A and B are trainable;
# - returns the list of full names that were wrapped;
# - raises `ValueError`, naming the suffix, if one of them matches nothing, and `ValueError` if there are adapters in the model already (they
#   are instances of `Adapter`). A refusal must leave the model exactly as it was.
#
# <details><summary>Nudge</summary>
#
# `model.named_modules()` walks through all modules with their full names, and `model.set_submodule(name, new)` replaces one. Do not do
# both at once: collect first.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# The order matters: look for adapters, collect the targets of each suffix and raise if there are none; then freeze the whole model; then wrap.
# Why must freezing come before wrapping?
#
# </details>
# <details><summary>Outline</summary>
#
# A dictionary name → module, filled in a loop over the suffixes; `f".{name}".endswith(f".{suffix}")` compares whole parts.
# `model.requires_grad_(False)`. A loop with `set_submodule`. Return the keys.
#
# </details>


# %% exercise="03.1"
def put_adapters(model: nn.Module, suffixes: list[str], config: AdapterConfig) -> list[str]:
    """Wrap every layer whose name ends in one of the suffixes, freeze the rest, return the names that were wrapped."""
    ### BEGIN SOLUTION
    if any(isinstance(module, Adapter) for module in model.modules()):
        raise ValueError("this model has adapters already")
    targets = {}
    for suffix in suffixes:
        matches = {n: m for n, m in model.named_modules() if f".{n}".endswith(f".{suffix}")}
        if not matches:
            raise ValueError(f"{suffix!r} matches no module of this model")
        targets |= matches
    model.requires_grad_(False)
    for name, module in targets.items():
        model.set_submodule(name, LoRA(module, config))
    return list(targets)
    ### END SOLUTION


# %% check="03.1"
put_adapters = check("03.1", put_adapters)

# %% [markdown]
# On the real encoder: how many layers, and how much is trained?

# %%
config = AdapterConfig(rank=8, alpha=16, target_modules=["query", "value"])
names = put_adapters(encoder, ["query", "value"], config)
print(f"{len(names)} layers wrapped, from {names[0]} to {names[-1]}")
try:
    put_adapters(encoder, ["key"], config)
except ValueError as error:
    print("a second time:", error)
parameter_report(encoder)

# %% [markdown]
# ## Bug lab · The loop that patched forward
#
# There is a shorter way, and you will meet it: leave the modules where they are, and give each a new `forward` that adds a branch.


# %%
def attach(model, rank=4):
    """Gives every linear layer a low-rank branch. Or does it?"""
    for _, module in model.named_modules():
        if isinstance(module, nn.Linear):
            branch = nn.Sequential(
                nn.Linear(module.in_features, rank, bias=False),
                nn.Linear(rank, module.out_features, bias=False),
            )
            nn.init.zeros_(branch[1].weight)  # B = 0: the output should not change yet
            module.plain_forward = module.forward
            module.forward = lambda x: module.plain_forward(x) + branch(x)
    return model


# %% [markdown]
# **Predict.** We attach branches to a small network of three layers, all 8 wide. B is zero, so nothing should change. What does the first layer
# compute? How many parameters has the model gained? What would an optimizer over `model.parameters()` train? What happens if the cell that attaches
# is run twice, and what if the model is pickled, as handing it to another process does?
#
# **Run.**

# %% tags=["nbval-check-output"]
seed_everything(0)
plain = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
x = torch.randn(5, 8)
expected, first, last = plain(x), plain[0](x), plain[4](x)
patched = attach(copy.deepcopy(plain))

print("output unchanged:", torch.allclose(patched(x), expected))
print("first layer computes what the first layer did:", torch.allclose(patched[0](x), first))
print("first layer computes what the last layer did:", torch.allclose(patched[0](x), last))
gained = sum(p.numel() for p in patched.parameters()) - sum(p.numel() for p in plain.parameters())
print("parameters gained:", gained)
print("names in the state dict:", len(patched.state_dict()), "as before:", len(plain.state_dict()))
print(
    "trainable parameters of the base:", sum(p.requires_grad for p in patched.parameters()), "of 6"
)
for what, attempt in [
    ("pickled", lambda: pickle.dumps(patched)),
    ("attached a second time and called", lambda: attach(patched)(x)),
]:
    try:
        attempt()
        print(f"{what}: works")
    except RecursionError:
        print(f"{what}: RecursionError")
    except Exception:
        print(f"{what}: fails")

# %% [markdown]
# **Explain.** Four faults in one line and its surroundings.
#
# 1. *Late binding.* A lambda does not remember the value of `module`, it remembers the *variable*, and looks it up when it is called. By then the loop is
#    over and `module` is the last layer: every layer of the network has become the last one.
# 2. *Unregistered.* The branches live in closures. They are in no `parameters()`, no `state_dict()`; `.to("cuda")` passes them by, and so does the
#    optimizer. What it gets is the base, all of it, since nobody froze it: full fine-tuning that believes it is LoRA (of the
#    last layer only, as long as fault 1 calls that one everywhere).
# 3. *Not repeatable.* The second time, `plain_forward` is the patched one, which calls `plain_forward`, which is the patched one …
# 4. *Not picklable.* A lambda has no name by which another process could find it.
#
# Faults 1 and 2 raise no error. The loss may even go down, since a part of the base is being trained; the branches never move, and what you save is a full copy of a damaged model.
#
# **Fix.** `lambda x, module=module, branch=branch: …` repairs the first fault alone. Your `put_adapters` repairs all four, because an adapter that *is* a module, in
# the place of the old one, gets the rest from PyTorch:

# %% tags=["nbval-check-output"]
repaired = copy.deepcopy(plain)
put_adapters(repaired, ["0", "2", "4"], AdapterConfig(rank=4, target_modules=["0", "2", "4"]))
print("output unchanged:", torch.equal(repaired(x), expected))
print("parameters gained:", sum(p.numel() for p in repaired.parameters() if p.requires_grad))
print(
    "trainable parameters of the base:",
    sum(p.requires_grad for n, p in repaired.named_parameters() if "base_layer" in n),
    "of 6",
)
print(
    "pickled and back, same output:", torch.equal(pickle.loads(pickle.dumps(repaired))(x), expected)
)

# %% [markdown]
# ## Attention without layers: `nn.MultiheadAttention`
#
# PyTorch's own attention module has no `q_proj` that could be replaced. It keeps the three weights stacked in one tensor of shape (3d, d), and hands it to a
# function. Even its `out_proj`, which *is* a linear layer, is never called: only its weight is read. An adapter there would be a decoration.

# %%
seed_everything(0)
block = nn.TransformerEncoderLayer(
    d_model=24, nhead=4, dim_feedforward=40, dropout=0.0, batch_first=True
).eval()
attention = block.self_attn
nn.init.normal_(attention.in_proj_bias)
print(
    "has q_proj:",
    hasattr(attention, "q_proj"),
    "  in_proj_weight:",
    tuple(attention.in_proj_weight.shape),
)
try:
    inject(block, AdapterConfig(target_modules=["out_proj"]))
except ValueError as error:
    print("our inject:", error)

# %% [markdown]
# A repair that suggests itself: compute the three projections, with their adapters, yourself, and pass them on to the module as query, key and value. It runs. But the
# module then does what it always does with its inputs: it projects them. Now they have been projected *twice*.

# %% tags=["nbval-check-output"]
x = torch.randn(2, 7, 24)
with torch.no_grad():
    right = attention(x, x, x)[0]
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    twice = attention(*(F.linear(x, W, b) for W, b in zip(weights, biases, strict=True)))[0]
print(
    f"projected twice: off by {(twice - right).norm() / right.norm():.0%} of the output, adapters still zero"
)

# %% [markdown]
# So the module must be taken apart, once and properly: three layers instead of the stacked tensor, and the arithmetic of attention written out.
#
# ## Exercise 03.2 · Take a stacked projection apart
#
# ★★ · 12 minutes
#
# Write `split_in_proj(attention)`: three `nn.Linear` layers q, k, v that hold **copies** of the pretrained weights and biases of an
# `nn.MultiheadAttention`, in the same dtype. If the attention was made with `bias=False`, they have none either.
#
# <details><summary>Nudge</summary>
#
# `in_proj_weight` holds (out, in) weights, one below the other: the first d rows are those of q.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `chunk(3)` cuts along the first dimension, for weight and bias alike. Then make a layer and `copy_` the numbers in, under `no_grad`; `in_proj_bias` may
# be None.
#
# </details>
# <details><summary>Outline</summary>
#
# For each third: `layer = nn.Linear(d, d, bias=..., dtype=...)`; `layer.weight.copy_(W)`; and the bias, if there is one.
#
# </details>


# %% exercise="03.2"
def split_in_proj(attention: nn.MultiheadAttention) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """q, k and v as layers of their own, (d, d) each, with copies of the weights of `attention`."""
    ### BEGIN SOLUTION
    stacked, bias = attention.in_proj_weight, attention.in_proj_bias
    biases = [None] * 3 if bias is None else bias.chunk(3)
    layers = []
    for W, b in zip(stacked.chunk(3), biases, strict=True):
        layer = nn.Linear(W.shape[1], W.shape[0], bias=b is not None, dtype=W.dtype)
        with torch.no_grad():
            layer.weight.copy_(W)
            if b is not None:
                layer.bias.copy_(b)
        layers.append(layer)
    return tuple(layers)
    ### END SOLUTION


# %% check="03.2"
split_in_proj = check("03.2", split_in_proj)

# %% [markdown]
# With your three layers, attention is four lines. It must give what the module gives:

# %% tags=["nbval-check-output"]
q_proj, k_proj, v_proj = split_in_proj(attention)
with torch.no_grad():
    heads = [
        p(x).unflatten(-1, (4, 6)).transpose(1, 2) for p in (q_proj, k_proj, v_proj)
    ]  # (N, heads, L, d / heads)
    mixed = F.scaled_dot_product_attention(*heads)  # (N, heads, L, d / heads)
    out = attention.out_proj(mixed.transpose(1, 2).flatten(2))  # (N, L, d)
assert_close(out, right, rtol=0, atol=1e-6)
print("your projections give the attention's output")

# %% [markdown]
# The package's `split_attention` does this to every `nn.MultiheadAttention` inside a model and keeps its arguments: masks, dropout, attention weights. After that there are
# layers with names, and everything you know works on them. When training is done, `join_attention` stacks the weights again, and nobody can see that we were there.

# %% tags=["nbval-check-output"]
with torch.no_grad():
    before = block(x)
    split_attention(block)
    inject(block, AdapterConfig(rank=4, alpha=7, target_modules=["q_proj", "v_proj"]))
    assert_close(block(x), before, rtol=0, atol=1e-6)
    for adapter in adapters(block).values():
        nn.init.normal_(adapter.lora_B)  # as if trained
    adapted = block(x)
    join_attention(eject(merge(block)))
    assert_close(block(x), adapted, rtol=0, atol=1e-5)
print(
    "adapted, merged and joined:",
    type(block.self_attn).__name__,
    "changed the output:",
    not torch.allclose(adapted, before),
)

# %% [markdown]
# ## GPT-2: fused and transposed
#
# GPT-2 has another surprise. Its layers are transformers' `Conv1D`, which is a linear layer with its weight stored the other way round, (in, out); and q, k and v are one
# layer, `c_attn`, with a weight of shape (d, 3d). Code that looks for `nn.Linear` in its attention finds nothing, and if it does not say so, trains nothing.

# %% tags=["nbval-check-output"]
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

seed_everything(0)
gpt2 = GPT2LMHeadModel(
    GPT2Config(
        n_embd=24,
        n_layer=2,
        n_head=4,
        vocab_size=50,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
    )
).eval()
in_attention = [m for n, m in gpt2.named_modules() if "attn" in n]
print("nn.Linear in its attention:", sum(isinstance(m, nn.Linear) for m in in_attention))
c_attn = gpt2.transformer.h[0].attn.c_attn
print(type(c_attn).__name__, "c_attn, weight (in, out) =", tuple(c_attn.weight.shape))

# %% [markdown]
# One LoRA around `c_attn` works (the package sees each layer as (out, in), whatever it stores). But look at what it means: **one** A serves q, k and v together, and k is adapted
# whether you want it or not. Adapting q and v alone takes a change that is zero in the middle.
#
# ## Exercise 03.3 · Low rank in a fused, transposed weight
#
# ★★★ · 15 minutes
#
# Write `fused_delta(adapters, scaling)`. `adapters` maps some of "q", "k" and "v" to a pair (A, B), with A of shape (r, d) and B of shape (d, r); ranks may differ.
# Return the change, of shape (d, 3d), that is to be added to the weight of a `Conv1D`. Where a part has no adapter, nothing changes.
#
# <details><summary>Nudge</summary>
#
# `x @ weight` gives q, k and v side by side. So which *columns* of the weight make q?
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# Each block is $(s\,BA)^\top$, because the weight is (in, out). It is square, so forgetting the transpose raises no error.
#
# </details>
# <details><summary>Outline</summary>
#
# For each of "q", "k", "v" in this order: the transposed product, or `torch.zeros(d, d)` of the same dtype; then `torch.cat(blocks, dim=1)`.
#
# </details>


# %% exercise="03.3"
def fused_delta(
    adapters: dict[str, tuple[torch.Tensor, torch.Tensor]], scaling: float
) -> torch.Tensor:
    """The (d, 3 d) change of a fused Conv1D weight; adapters: "q", "k" or "v" -> A (r, d), B (d, r)."""
    ### BEGIN SOLUTION
    some_A, _ = next(iter(adapters.values()))
    d = some_A.shape[1]
    blocks = []
    for part in "qkv":
        if part in adapters:
            A, B = adapters[part]
            blocks.append((scaling * B @ A).T)  # (in, out)
        else:
            blocks.append(torch.zeros(d, d, dtype=some_A.dtype))
    return torch.cat(blocks, dim=1)
    ### END SOLUTION


# %% check="03.3"
fused_delta = check("03.3", fused_delta)

# %% tags=["nbval-check-output"]
rank, d = 4, 24
pairs = {part: (torch.randn(rank, d), torch.randn(d, rank)) for part in ("q", "v")}
x = torch.randn(2, 7, d)
changed = copy.deepcopy(c_attn)
with torch.no_grad():
    changed.weight += fused_delta(pairs, scaling=7 / rank)
for part, old, new in zip("qkv", c_attn(x).split(d, -1), changed(x).split(d, -1), strict=True):
    print(f"{part}: {'as before' if torch.equal(old, new) else 'changed'}")
print(f"one LoRA of rank {rank} around c_attn: {rank * (d + 3 * d)} numbers, one A for all three")
print(
    f"three of rank {rank}, for q, k and v: {3 * rank * (d + d)} numbers; two, for q and v: {2 * rank * (d + d)}"
)

# %% [markdown]
# ## Exercise 03.4 · The price of a list of names
#
# ★★ · 10 minutes
#
# Before building anything, know what it will cost. Write `count_for_targets(model, suffixes, rank)`: how many parameters would LoRA of this rank train on the layers with these
# names? Count `nn.Linear` and `Conv1D` alike, match whole parts of names as in 03.1, and count a layer once, even if two suffixes match it or it has two
# names. Leave the model as it is: it may be on the `meta` device, where weights have shapes and no numbers.
#
# <details><summary>Nudge</summary>
#
# r (in + out). Does it matter which of the two sizes comes first in `weight.shape`?
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# The same matching as in 03.1. Collect layers in a dictionary or a set of modules, so that none is there twice: modules can be keys.
#
# </details>
# <details><summary>Outline</summary>
#
# A set of modules whose name matches any suffix; the sum of `rank * sum(module.weight.shape)` over it.
#
# </details>


# %% exercise="03.4"
def count_for_targets(model: nn.Module, suffixes: list[str], rank: int) -> int:
    """Trainable parameters of LoRA on the layers whose names end in one of the suffixes."""
    ### BEGIN SOLUTION
    layers = {
        module
        for name, module in model.named_modules()
        if any(f".{name}".endswith(f".{suffix}") for suffix in suffixes)
    }
    return sum(rank * sum(layer.weight.shape) for layer in layers)
    ### END SOLUTION


# %% check="03.4"
count_for_targets = check("03.4", count_for_targets)

# %% [markdown]
# Prices at rank 8 for two well-known shapes, on the meta device:

# %% tags=["nbval-check-output"]
with torch.device("meta"):
    bert = BertForSequenceClassification(BertConfig())
    medium = GPT2LMHeadModel(GPT2Config(n_embd=1024, n_layer=24, n_head=16))
for name, model, suffixes in [
    ("bert-base", bert, ["query", "value"]),
    ("bert-base", bert.bert.encoder, ["query", "key", "value", "dense"]),
    ("gpt2-medium", medium, ["c_attn"]),
    ("gpt2-medium", medium, ["c_attn", "c_proj", "c_fc"]),
]:
    total = sum(p.numel() for p in (bert if name == "bert-base" else medium).parameters())
    count = count_for_targets(model, suffixes, 8)
    print(
        f"{name:12s} {', '.join(suffixes):26s} {count:9,d} of {total:11,d} parameters, {100 * count / total:.2f} %"
    )

# %% [markdown]
# ## Tied weights
#
# In many language models the output layer *is* the embedding: one tensor, two names. What does adapting one of them do to the other?
#
# - While training, nothing: the adapter is a branch beside one use of the tensor.
# - When merging, everything: the change is added to a tensor that the embedding reads too. Unless somebody unties them first.

# %% tags=["nbval-check-output"]
print("tied:", gpt2.lm_head.weight is gpt2.transformer.wte.weight)
tokens = torch.arange(10).unsqueeze(0)
inject(gpt2, AdapterConfig(rank=4, alpha=7, target_modules=["lm_head"]))
with torch.no_grad():
    nn.init.normal_(gpt2.lm_head.lora_B)
    adapted = gpt2(tokens).logits
    careless = copy.deepcopy(gpt2)
    careless.lm_head.merge()  # the layer alone: it cannot know who else reads its weight
    merge(gpt2)  # the model: it looks
    off = (careless(tokens).logits - adapted).abs().max()
    assert_close(gpt2(tokens).logits, adapted, rtol=0, atol=1e-4)
print("merging the layer alone changes the output:", bool(off > 1e-2))
print("merging the model does not; still tied:", gpt2.lm_head.weight is gpt2.transformer.wte.weight)
unmerge(gpt2)
print("after unmerge, tied again:", gpt2.lm_head.weight is gpt2.transformer.wte.weight)

# %% [markdown]
# ## The real run: which layers?
#
# Now the question that everybody asks first. Attention only, as the original paper did? The MLP, which holds most of the parameters? Everything, at a lower rank? The only fair comparison is at
# an **equal number of trained parameters**: whoever gets fewer layers gets a higher rank.
#
# Watch the names: `output.dense` means the output of the MLP *and* that of attention, `attention.output.dense`. To have the MLP's alone, we put the number of the layer in front.

# %%
layers = range(6) if current_profile() != "full" else range(12)
CHOICES = {
    "query, value": ["query", "value"],
    "attention": ["query", "key", "value", "attention.output.dense"],
    "MLP": ["intermediate.dense", *(f"{i}.output.dense" for i in layers)],
    "all of both": ["query", "key", "value", "intermediate.dense", "output.dense"],
}
BASE = by_profile(smoke="packaged", cpu="packaged", full="bert-base-uncased")
fresh, tokenizer = load_encoder(BASE, base_dropout=0.0)
BUDGET = count_for_targets(fresh, CHOICES["all of both"], rank=8)
plan = {}
for choice, suffixes in CHOICES.items():
    rank = BUDGET // count_for_targets(fresh, suffixes, rank=1)
    plan[choice] = rank
    print(f"{choice:14s} rank {rank:3d}: {count_for_targets(fresh, suffixes, rank):9,d} parameters")

# %% [markdown]
# What is the same for all: data, number of steps, learning rate, and the scaling α/r = 2. What differs from seed to seed: the random head, A, and the order of the sentences. **One run of each would tell
# you almost nothing**, so each choice runs with three seeds. Your `put_adapters` does the work.

# %%
WORDS = by_profile(smoke=18, cpu=18, full=60)  # at most; twelve runs on a CPU are long enough as it is
splits = load_reviews("rotten_tomatoes", max_words=WORDS)
splits["train"] = splits["train"].select(range(by_profile(smoke=48, cpu=800, full=6000)))
splits["validation"] = splits["validation"].select(range(32))
splits["test"] = splits["test"].select(range(by_profile(smoke=64, cpu=500, full=1500)))
SEEDS = by_profile(smoke=[0], cpu=[0, 1, 2], full=[0, 1, 2, 3, 4])


def fine_tune(choice: str, seed: int):
    """A fresh encoder with adapters on the chosen layers, trained; and its result on the test split."""
    seed_everything(seed)
    model, _ = load_encoder(BASE, base_dropout=0.0)
    config = AdapterConfig(
        rank=plan[choice],
        alpha=2 * plan[choice],
        target_modules=CHOICES[choice],
        trainable=["classifier"],
    )
    put_adapters(model, CHOICES[choice], config)
    model.classifier.requires_grad_(True)  # the head is new: it must be trained as well
    _, result = train_sentiment(
        model.to(device),
        tokenizer,
        splits,
        TrainingConfig(epochs=1, batch_size=16, learning_rate=2e-3, seed=seed),
        name=choice,
        progress=False,
    )
    return model, result


began = perf_counter()
accuracy = {choice: [] for choice in CHOICES}
for seed in SEEDS:
    for choice in CHOICES:
        trained, result = fine_tune(choice, seed)
        accuracy[choice].append(result.accuracy)
noise = (result.accuracy * (1 - result.accuracy) / result.n) ** 0.5
print(f"{'':14s} {'rank':>4s} {'mean':>6s}   each seed")
for choice, values in accuracy.items():
    print(
        f"{choice:14s} {plan[choice]:4d} {statistics.mean(values):6.3f}   {', '.join(f'{v:.3f}' for v in values)}"
    )
print(
    f"\n{BASE} encoder, {len(splits['train'])} sentences of up to {WORDS} words once, tested on {result.n}; {len(SEEDS) * len(CHOICES)} runs in "
    f"{perf_counter() - began:.0f} s; {result.device}"
)
print(f"the standard error of a single accuracy is {noise:.3f}, from the test sentences alone")

# %%
fig, ax = plt.subplots(figsize=(7.5, 3.4))
for place, values in enumerate(accuracy.values()):
    ax.errorbar(
        statistics.mean(values),
        place,
        xerr=noise,
        fmt="|",
        color="#D55E00",
        capsize=4,
        markersize=14,
    )
    ax.plot(values, [place] * len(values), "o", color="#0072B2", alpha=0.7)
ax.plot([], [], "o", color="#0072B2", label="one seed")
ax.errorbar(
    [],
    [],
    xerr=1,
    fmt="|",
    color="#D55E00",
    capsize=4,
    label="mean, ± standard error of one accuracy",
)
ax.set_yticks(range(len(plan)), [f"{choice}\nrank {rank}" for choice, rank in plan.items()])
ax.set_ylim(len(plan) + 0.2, -0.5)
ax.set(
    xlabel=f"accuracy on {result.n} test sentences",
    title="The same number of trained parameters, in different layers",
)
ax.legend(loc="lower center", ncols=2, fontsize=8)
fig.tight_layout()
plt.show()
means = {choice: statistics.mean(values) for choice, values in accuracy.items()}
best, worst = max(means, key=means.get), min(means, key=means.get)
spread = max(max(values) - min(values) for values in accuracy.values())
print(
    f"best mean minus worst: {means[best] - means[worst]:.3f} ({best} over {worst}); widest range of one choice over its seeds: {spread:.3f}"
)

# %% [markdown]
# **The verdict, such as it is.** In our run the means of the four choices lie closer together than three runs of one choice mostly do. Whoever had run each once, with one seed,
# would have found a winner, and with the next seed another. What we may say: at this budget, on this easy task and with this little data, the choice of layers does not
# matter enough to be seen with three seeds and 500 sentences. That is a finding too, and it saves you a search.
#
# What we may *not* say is that it never matters. All four shared one learning rate, and the best one may differ from choice to choice. The task is easy. On a harder
# one, the comparison that PEFT's authors publish (Llama-3.2-3B on MetaMathQA, accuracy on 1 319 problems) has had .494 for LoRA on the MLP alone at rank 10 and .478 for q and v alone at rank 32: one seed
# each, and less than one standard error apart. A later run of the first of them, with the same settings, has .526. Hu et al. found that, within attention, spreading a budget over q and v beats a high rank on one of them. "All linear layers, at a low rank" is a sensible first try because it
# needs no knowledge of the model, not because this plot says so.
#
# ## Does PEFT agree?
#
# The last model was wrapped by your own function. If its modules sit where they should, under the names that they should have, the rest of the world can read it.

# %%
from peft import PeftModel

inputs = tokenizer(
    ["a warm , funny , beautifully acted film", "two hours that i will never get back"],
    padding=True,
    return_tensors="pt",
).to(device)
warnings.filterwarnings(
    "ignore", ".*is_gradient_checkpointing"
)  # PEFT reads an old name of transformers
with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    save_adapter(trained, folder)
    fresh, _ = load_encoder(BASE, base_dropout=0.0)
    theirs = PeftModel.from_pretrained(fresh, folder).to(device).eval()
    ours, peft_says = trained.eval()(**inputs).logits, theirs(**inputs).logits
assert_close(ours, peft_says, rtol=0, atol=1e-5)
print(
    f"largest difference between your injected model and PEFT's: {(ours - peft_says).abs().max():.1e}"
)

# %% [markdown]
# ## Self-test
#
# <details><summary>1. You inject into ["q_proj", "v_proj"] and the report says 0 trainable parameters. What happened, and what should have happened?</summary>
#
# No layer of this model has such a name (GPT-2 calls it c_attn, BERT query), and the code that looked for it did not say so. It should have raised an error that lists the names there are.
#
# </details>
# <details><summary>2. Why is it wrong to freeze the model after the adapters have been put in?</summary>
#
# They are part of the model by then: A and B would be frozen along. Freeze first, wrap then; new parameters are trainable from birth.
#
# </details>
# <details><summary>3. A rank-8 LoRA around a fused c_attn, or three of rank 8 around q, k and v: do they cost the same, can they express the same?</summary>
#
# Around c_attn it is 8 (d + 3d) = 32 d numbers; three separate ones are 3 · 8 (d + d) = 48 d. The fused one has a single A: q, k and v read the same eight directions of the input, each in its own way. Three have
# 24 directions between them.
#
# </details>
#
# ## Reading
#
# - Vaswani et al. 2017, [Attention Is All You Need](https://arxiv.org/abs/1706.03762): section 3.2 is the block that we took apart.
# - Hu et al. 2021, [LoRA](https://arxiv.org/abs/2106.09685): section 7.1 asks which matrices to adapt at an equal budget, within attention.
# - Houlsby et al. 2019, [Parameter-Efficient Transfer Learning for NLP](https://arxiv.org/abs/1902.00751): adapters placed *between* layers instead of beside them.
# - Lesson 04 takes the encoder from here to a full fine-tune; lesson 09 measures what each of these layers keeps for the backward pass.
