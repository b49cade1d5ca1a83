# %% [markdown]
# # 05 · LoRA-FA and VeRA
#
# **The question.** LoRA trains two matrices a layer. What do we gain, and what do we lose, if we freeze one of them, or both?
#
# **What you will be able to do**
# - say which tensors the backward pass of a layer keeps, predict their bytes, and weigh them;
# - explain what a frozen A saves, when it saves nothing, and how its optimizer makes the best of it;
# - write a VeRA layer: one random pair for the whole model, two trained vectors a layer;
# - compare LoRA, LoRA-FA and VeRA on real text and say what the numbers allow you to say, and no more.
#
# **Time and memory.** About 85 minutes, most of them yours: the cells take one to two minutes on two CPU cores, and about 2 GiB of memory.

# %%
import math
from contextlib import nullcontext

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from lora_course import (
    AdapterConfig,
    adapters,
    inject,
    make_optimizer,
    merge,
    parameter_report,
)
from lora_course.adapters import VeRA
from lora_course.adapters.base import Adapter
from lora_course.adapters.fused import plain_forward
from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.teaching.exercises import check
from lora_course.teaching.profiles import by_profile, current_profile

device = choose_device()
print(describe_device(device))
print(f"profile: {current_profile()}")

# %% [markdown]
# ## Freeze A: LoRA-FA
#
# LoRA computes $h = Wx + b + s\,B(Ax)$ with $s = \alpha / r$. In lesson 02 you derived its gradients. For N tokens, input width $d$, output
# width $k$ and $g$ the gradient that arrives at $h$:
#
# | gradient of | formula | needs | entries |
# |---|---|---|---|
# | $W$ (if it were trained) | $g^\top x$ | $x$ | N d |
# | $A$ | $s\,(gB)^\top x$ | $x$ | N d |
# | $B$ | $s\,g^\top (xA^\top)$ | $xA^\top$ | N r |
# | $x$ | $gW + s\,(gB)A$ | the weights alone | none |
#
# The third column is what must survive from the forward pass to the backward pass: that is *activation memory*, and with long inputs it is
# often most of what training takes. Freezing W does not free $x$, because A still asks for it. LoRA-FA (Zhang et al. 2023) freezes A
# as well, where it was drawn, and trains B alone. Then nobody asks for $x$: N r entries are left, and r is small.
#
# ## Exercise 05.1 · What the backward pass keeps
#
# ★★ · 12 minutes
#
# Write `kept_bytes(method, tokens, in_features, out_features, rank, layers=1)`: the bytes that the backward pass keeps in float32, without
# dropout, when `layers` linear layers read **the same** $x$, as query, key and value do. Parameters do not count, since they are there
# anyway. The methods:
#
# - `"full"`: W is trained, no adapter;
# - `"lora"`, `"lora_fa"`: W is frozen;
# - `"vera"`, which you meet below: $h = Wx + b + \lambda_b \odot (B\,(\lambda_d \odot (Ax)))$, where W, A and B are frozen and the two vectors
#   are trained. ($\odot$ multiplies entry by entry.) The gradient of a factor in a product needs the other factor.
#
# <details><summary>Nudge</summary>
#
# For each *trained* thing ask what it was multiplied with in the forward pass. That is what its gradient needs.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# $x$ is one tensor however many layers read it. $Ax$ is another one in each layer. In VeRA, $\lambda_d$ meets $Ax$ (N r entries), and
# $\lambda_b$ meets what B makes of it (N k entries).
#
# </details>
# <details><summary>Outline</summary>
#
# A dictionary from method to number of entries: N d; N d + layers · N r; layers · N r; layers · (N r + N k). Four bytes each.
#
# </details>


# %% exercise="05.1"
def kept_bytes(
    method: str, tokens: int, in_features: int, out_features: int, rank: int, layers: int = 1
) -> int:
    """Bytes kept for backward, float32, by `layers` layers that share one input (tokens, in_features)."""
    ### BEGIN SOLUTION
    entries = {
        "full": tokens * in_features,
        "lora": tokens * in_features + layers * tokens * rank,
        "lora_fa": layers * tokens * rank,
        "vera": layers * tokens * (rank + out_features),
    }
    return 4 * entries[method]
    ### END SOLUTION


# %% check="05.1"
kept_bytes = check("05.1", kept_bytes)

# %% [markdown]
# ## Do not believe it: weigh it
#
# Autograd will tell you what it keeps. `saved_tensors_hooks` calls a function of ours with every tensor that goes into the graph. Two traps:
# the same storage may be saved many times (query, key and value all save $x$) and must count once; and weights are saved too, by
# reference, though they cost nothing extra.


# %%
def weigh(run, own, forward=plain_forward) -> int:
    """Bytes that autograd keeps for backward while run() computes: each storage once, those of `own` left out.

    forward: the package's layers train through steps of their own that keep less; plain_forward switches those off.
    """
    not_counted = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept = {}  # it holds the storages, so that no address is used twice

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in not_counted:
            kept[storage.data_ptr()] = storage
        return tensor

    with forward(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = run()
    assert result.requires_grad, "nothing here is trained"
    return sum(storage.nbytes() for storage in kept.values())


def weigh_layers(
    method, tokens, in_features, out_features, rank, layers=1, dropout=0.0, forward=plain_forward
) -> int:
    """What `layers` layers that share their input keep."""
    model = nn.ModuleDict(
        {f"layer{i}": nn.Linear(in_features, out_features, bias=False) for i in range(layers)}
    )
    if method != "full":
        inject(model, AdapterConfig(method, rank=rank, dropout=dropout))
    x = torch.randn(tokens, in_features, requires_grad=True)
    own = [*model.parameters(), *model.buffers()]
    return weigh(lambda: sum(layer(x) for layer in model.values()), own, forward)


# %% tags=["nbval-check-output"]
shape = dict(tokens=256, in_features=512, out_features=512, rank=8)
print("KiB kept for backward, 256 tokens, 512 to 512, rank 8, float32, no dropout")
print(f"{'':8s} {'one layer':>10s} {'three with the same x':>22s}")
for method in ("full", "lora", "lora_fa"):
    one, three = (kept_bytes(method, **shape, layers=layers) for layers in (1, 3))
    assert one == weigh_layers(method, **shape), method
    assert three == weigh_layers(method, **shape, layers=3), method
    print(f"{method:8s} {one / 1024:10.0f} {three / 1024:22.0f}")

# %% [markdown]
# Your formula and the scales agree to the byte. Now read the fine print of LoRA-FA. The saving is there **only** while W is frozen *and*
# nothing else holds on to $x$ or to something of its size. Dropout on the branch is enough to spoil most of it:

# %%
print("KiB kept by three layers that read the same x, measured:")
print(f"{'':8s} {'no dropout':>11s} {'dropout 0.1, plain':>19s} {'and in our own step':>20s}")
for method in ("lora", "lora_fa"):
    kept = [
        weigh_layers(method, **shape, layers=3, dropout=p, forward=forward) / 1024
        for p, forward in ((0.0, plain_forward), (0.1, plain_forward), (0.1, nullcontext))
    ]
    print(f"{method:8s} {kept[0]:11.0f} {kept[1]:19.0f} {kept[2]:20.0f}")

# %% [markdown]
# Dropout keeps its mask to send the gradient back to $x$, a float for each entry, and the dropped $x$ is a new tensor in every layer, no longer
# shared. That is the middle column, what plain autograd (and PEFT) keeps. The last column is what the package does when it trains: it draws one
# mask for all layers that read the same $x$, a byte an entry (`lora_course/adapters/dropout.py`, `fused.py`). Much less, and still many times
# what LoRA-FA keeps without. So: LoRA-FA wants dropout 0.
#
# **Try it.** Every tensor that the graph holds, found in the graph itself, for layers from 384 to 512. Choose a method, then tick *Dropout*, then take the
# hand-written steps away. Which method keeps least in each case, and what is it that it does not keep?

# %%
from lora_course.teaching.widgets import inside_a_step

inside_a_step.static()

# %%
inside_a_step.explore()

# %% [markdown]
# ## Exercise 05.2 · The best step that a frozen A allows
#
# ★★★ · 15 minutes
#
# Full fine-tuning would move W along its gradient $G$ (k, d). With A frozen, a step $dB$ moves the layer's weight by $s\,dB\,A$, and
# all it can reach is the row space of A. The plain gradient of B, $g_B = s\,G A^\top$, does not even aim at the nearest reachable point. The
# second version of the paper takes the step that does:
#
# $$\min_{dB} \; \lVert s\,dB\,A - G \rVert^2 \quad\Longrightarrow\quad dB = \dots$$
#
# Set the derivative to zero, solve for $dB$, and express it by $g_B$, A and s alone: G itself is never computed in LoRA. Write it as
# `project_gradient(grad_B, A, scaling)`, with `grad_B` (k, r) and A (r, d).
#
# <details><summary>Nudge</summary>
#
# The derivative of the squared norm with respect to $dB$ is $2 s\,(s\,dB\,A - G)\,A^\top$.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# So $s^2\,dB\,(AA^\top) = s\,G A^\top$, and the right-hand side is $g_B$. The matrix $AA^\top$ is small: (r, r).
#
# </details>
# <details><summary>Outline</summary>
#
# $dB = s^{-2}\, g_B\,(AA^\top)^{-1}$: `torch.linalg.inv`, a product, a division by the scaling squared. Return a new tensor.
#
# </details>


# %% exercise="05.2"
def project_gradient(grad_B: torch.Tensor, A: torch.Tensor, scaling: float) -> torch.Tensor:
    """The step of B (out, r) that brings scaling * step @ A nearest to the gradient of W. grad_B (out, r), A (r, in)."""
    ### BEGIN SOLUTION
    gram = A @ A.T  # (r, r)
    return grad_B @ torch.linalg.inv(gram) / scaling**2
    ### END SOLUTION


# %% check="05.2"
project_gradient = check("05.2", project_gradient)

# %% [markdown]
# How much does that change? Two things can be computed before any training: the cosine between the plain gradient and the projected one, and
# how much of the reachable part of G each would capture, if both chose their best step length.


# %%
def captured(step: torch.Tensor, A: torch.Tensor, G: torch.Tensor) -> float:
    """Share of |G|^2 that a step of B along `step` can remove, with the best step length."""
    move = step @ A
    return ((move * G).sum() ** 2 / (move.square().sum() * G.square().sum())).item()


seed_everything(0)
rank, scaling = 8, 2.0
for width in (12, 48, 384, 1536):
    A = nn.init.kaiming_uniform_(torch.empty(rank, width), a=math.sqrt(5))
    G = torch.randn(64, width)
    plain = scaling * G @ A.T
    projected = project_gradient(plain, A, scaling)
    cosine = F.cosine_similarity(plain.flatten(), projected.flatten(), dim=0)
    share = captured(plain, A, G) / captured(projected, A, G)
    print(
        f"input {width:4d} wide: cosine {cosine:.3f}; plain captures {share:6.1%} of what projected captures"
    )

# %% [markdown]
# In a narrow layer the projection matters. In a wide one it hardly does: the rows of a random A are then almost orthogonal and of almost the
# same length, so $AA^\top$ is nearly a multiple of the identity, and the projection is nearly a change of *length*. Adam divides each entry by
# the running size of that entry, so a common factor drops out. So here is a prediction to hold against the real run below: on an encoder of width 384, the two
# optimizers of LoRA-FA should end up close together.
#
# ## Freeze both: VeRA
#
# VeRA (Kopiczko et al. 2023) goes one step further. A and B are random and frozen, and *the same for all layers*: one pair, as wide
# as the widest layer needs. A narrower layer takes the first columns of A and the first rows of B. Each layer trains two vectors:
#
# $$h = Wx + b + \lambda_b \odot \big(B\,(\lambda_d \odot (A\,x))\big)$$
#
# | symbol | shape | trained? | starts at |
# |---|---|---|---|
# | $A$ | (r, widest in) | no | random |
# | $B$ | (widest out, r) | no | random |
# | $\lambda_d$ | (r) | yes | 0.1 |
# | $\lambda_b$ | (out) | yes | 0 |
#
# There is no $\alpha / r$: the vectors are the scale. Rank is cheap, one number a layer, so it is large, 256 or more. And since a seed
# is enough to draw A and B again, a saved adapter holds only the vectors.
#
# ## Exercise 05.3 · A VeRA layer
#
# ★★★ · 20 minutes
#
# As in lesson 02, `Adapter` keeps the frozen layer in `self.base_layer`, knows `self.in_features` and `self.out_features`, makes parameters
# with `self.new_parameter(length)`, and merges what `delta_weight()` returns. Write
#
# - `__init__`: the parameters `vera_lambda_b` and `vera_lambda_d`, with their initial values;
# - `forward(x)`: the equation; the base output alone if `self.merged`;
# - `delta_weight()`: the (out, in) change of W.
#
# `self.pair.A` and `self.pair.B` are the model's pair, and larger than your layer needs.
#
# <details><summary>Nudge</summary>
#
# First cut: `self.pair.A[:, :self.in_features]` is (r, in), a view that costs nothing. The rows of B go the same way.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# $Ax$ for a batch is `x @ A.T`, of shape (..., r). A vector of length r multiplies its last dimension by itself: `lambda_d * (x @ A.T)`.
#
# </details>
# <details><summary>Outline</summary>
#
# h = base_layer(x); if merged return h; else h + λ_b * ((λ_d * (x Aᵀ)) Bᵀ). For the weight: scale the rows of A by λ_d and the rows of B
# by λ_b (`vector[:, None] * matrix`), and multiply the two.
#
# </details>


# %% exercise="05.3"
class VeRALinear(Adapter):
    """A frozen linear layer plus two trained vectors around a random pair that all layers share."""

    prepare = VeRA.prepare  # `inject` calls this once for the whole model: it makes the pair

    def __init__(self, base_layer: nn.Linear, config: AdapterConfig, pair):
        super().__init__(base_layer, config)
        self.pair = pair  # pair.A (r, widest in), pair.B (widest out, r)
        ### BEGIN SOLUTION
        self.vera_lambda_b = self.new_parameter(self.out_features)
        self.vera_lambda_d = self.new_parameter(config.rank)
        nn.init.zeros_(self.vera_lambda_b)
        nn.init.constant_(self.vera_lambda_d, 0.1)
        ### END SOLUTION

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., in); returns (..., out)."""
        ### BEGIN SOLUTION
        h = self.base_layer(x)  # (..., out)
        if self.merged:
            return h
        A, B = self.pair.A[:, : self.in_features], self.pair.B[: self.out_features]
        low = self.vera_lambda_d * (x @ A.T)  # (..., r)
        return h + self.vera_lambda_b * (low @ B.T)
        ### END SOLUTION

    def delta_weight(self) -> torch.Tensor:
        """The (out, in) change of the weight."""
        ### BEGIN SOLUTION
        A, B = self.pair.A[:, : self.in_features], self.pair.B[: self.out_features]
        return (self.vera_lambda_b[:, None] * B) @ (self.vera_lambda_d[:, None] * A)
        ### END SOLUTION


# %% check="05.3"
VeRALinear = check("05.3", VeRALinear)

# %% [markdown]
# In 05.1 you predicted what such a layer keeps for backward. Here is what *yours* keeps:

# %% tags=["nbval-check-output"]
layers = nn.ModuleDict({name: nn.Linear(512, 384) for name in ("query", "key", "value")})
inject(layers, AdapterConfig("vera", rank=64), layer=VeRALinear)
x = torch.randn(256, 512, requires_grad=True)
weighed = weigh(
    lambda: sum(layer(x) for layer in layers.values()), [*layers.parameters(), *layers.buffers()]
)
print(f"predicted {kept_bytes('vera', 256, 512, 384, 64, layers=3):,} bytes, weighed {weighed:,}")

# %% [markdown]
# ## Bug lab · Two ones and a private pair
#
# Here is VeRA as you may find it in a slide deck or an answer of a chatbot. The shapes are right, the matrices are frozen, the two vectors are
# trained, and nothing ever raises an error. There are two mistakes in `__init__`.


# %%
class LoudVeRA(nn.Module):
    """A frozen layer with a random branch whose two scales are trained."""

    def __init__(self, layer: nn.Linear, rank: int):
        super().__init__()
        out_features, in_features = layer.weight.shape
        self.layer = layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(rank, in_features), requires_grad=False)
        self.B = nn.Parameter(torch.randn(out_features, rank), requires_grad=False)
        self.scale_low = nn.Parameter(torch.ones(rank))
        self.scale_out = nn.Parameter(torch.ones(out_features))

    def forward(self, x):
        branch = self.scale_out * ((self.scale_low * (x @ self.A.T)) @ self.B.T)
        return self.layer(x) + branch


# %% [markdown]
# **Predict.** A "pretrained" layer, 96 to 64, is asked to do a job that differs a little from the one it does. (a) How large is the change
# of the weight at the start, compared with the weight itself? (b) Where is the loss before the first step, and where after 300?
#
# **Run.**


# %%
def learn(make_layer, steps: int = 300) -> tuple[float, list[float]]:
    """(loss of the pretrained layer as it is, losses while the adapted layer learns a slightly different job)."""
    seed_everything(0)
    pretrained = nn.Linear(96, 64, bias=False)
    x = torch.randn(256, 96)
    change = 0.004 * torch.randn(64, 4) @ torch.randn(4, 96)
    target = x @ (pretrained.weight + change).detach().T
    untouched = (pretrained(x) - target).square().mean().item()
    layer = make_layer(pretrained)
    optimizer = torch.optim.AdamW(
        [p for p in layer.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0
    )
    losses = []
    for _ in range(steps):
        loss = (layer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return untouched, losses


def make_vera(layer: nn.Linear) -> nn.Module:
    """Your layer, with the pair that `inject` makes."""
    return inject(
        nn.ModuleDict({"layer": layer}), AdapterConfig("vera", rank=16), layer=VeRALinear
    ).layer


untouched, loud = learn(lambda layer: LoudVeRA(layer, rank=16))
_, quiet = learn(make_vera)

fig, ax = plt.subplots(figsize=(7, 3.6))
ax.semilogy(loud, color="#D55E00", linestyle="--", label="both vectors start at 1")
ax.semilogy(quiet, color="#0072B2", label="lambda_b starts at 0, lambda_d at 0.1")
ax.axhline(untouched, color="#000000", linestyle=":", label="the pretrained layer, untouched")
ax.set(
    xlabel="AdamW step",
    ylabel="mean squared error",
    title="The same random branch, two starts",
)
ax.legend()
plt.show()

seed_everything(0)
example = LoudVeRA(nn.Linear(96, 64, bias=False), rank=16)
ratio = ((example.B @ example.A).norm() / example.layer.weight.norm()).item()
print(f"(a) the change of the weight at the start is {ratio:.0f} times as large as the weight")
print(
    f"(b) loss: untouched {untouched:.4f}; both at 1: {loud[0]:.0f}, then {loud[-1]:.2f}; right start: {quiet[0]:.4f}, then {quiet[-1]:.4f}"
)

# %% [markdown]
# **Explain.** With both vectors at 1 the branch is on at full volume before it has learned anything, and what the layer knew is drowned in
# noise. Training then spends all its steps on turning the noise down again, and after 300 it is still worse than no training at all. With
# $\lambda_b = 0$ the first output is exactly the pretrained one; $\lambda_d$ must *not* be 0 as well, or neither vector would ever
# get a gradient.
#
# Look at the blue curve too, and do not be impressed. It starts where it should, and it gains almost nothing: this job is a change of rank 4 in
# *some* directions, VeRA can only reweigh directions that were drawn at random, and 80 numbers are few. A LoRA of rank 4 would fit it exactly.
# Small is not free.
#
# **Fix.** Two lines for the vectors. The second mistake costs no accuracy but the whole point: each layer draws a pair of its own, as
# parameters, so that every saved file carries them. Draw one pair for the model, from a seed, and keep it out of the file. How much is that?
# Count it.
#
# ## Exercise 05.4 · Count VeRA, trained and frozen
#
# ★★ · 8 minutes
#
# Write `count_vera(shapes, rank)`. `shapes` is a list of (in, out), one for each adapted layer. Return two counts: the numbers trained in all
# layers together, and the numbers of the frozen pair that serves all of them.
#
# <details><summary>Nudge</summary>
#
# What is trained belongs to each layer. What is frozen belongs to the model.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# Each layer trains r + out. The pair must serve the widest input and the widest output, which may belong to two different layers.
#
# </details>
# <details><summary>Outline</summary>
#
# A sum of `rank + out` over the shapes; `rank * max(in) + rank * max(out)`.
#
# </details>


# %% exercise="05.4"
def count_vera(shapes: list[tuple[int, int]], rank: int) -> tuple[int, int]:
    """(numbers trained, numbers in the shared frozen pair) for layers of these (in, out) shapes."""
    ### BEGIN SOLUTION
    trained = sum(rank + n_out for _, n_out in shapes)
    frozen = rank * max(n_in for n_in, _ in shapes) + rank * max(n_out for _, n_out in shapes)
    return trained, frozen
    ### END SOLUTION


# %% check="05.4"
count_vera = check("05.4", count_vera)

# %% [markdown]
# A model of the size of Llama-7B, adapted in query and value: 32 blocks of width 4 096. (Its shapes are enough for counting.)

# %% tags=["nbval-check-output"]
shapes = [(4096, 4096)] * 64
lora_8 = sum(8 * (n_in + n_out) for n_in, n_out in shapes)
fa_8 = sum(8 * n_out for _, n_out in shapes)
trained, frozen = count_vera(shapes, 256)
private = sum(256 * (n_in + n_out) for n_in, n_out in shapes)
print(f"LoRA r=8    : {lora_8:11,d} trained")
print(f"LoRA-FA r=8 : {fa_8:11,d} trained")
print(f"VeRA r=256  : {trained:11,d} trained, {frozen:,} frozen random numbers that a seed brings back")
print(f"the bug lab's: a pair for each layer would be {private:,} random numbers in every file")

# %% [markdown]
# ## The real run
#
# The packaged encoder (six BERT layers, width 384), every query, key, value and dense layer adapted, the same Rotten Tomatoes sentences for
# all. The first question has nothing to do with accuracy: what does the *whole* backward pass keep, for one real batch of 16 sentences?

# %%
from lora_course.adapters.optimizers import project
from lora_course.assets import load_encoder, load_reviews
from lora_course.training.batching import pad_collate
from lora_course.training.config import TrainingConfig
from lora_course.training.sentiment import tokenize_reviews, train_sentiment

WORDS = by_profile(smoke=18, cpu=18, full=60)  # at most: short sentences for short runs
splits = load_reviews("rotten_tomatoes", max_words=WORDS)
splits["train"] = splits["train"].select(range(by_profile(smoke=32, cpu=1200, full=6528)))
splits["validation"] = splits["validation"].select(range(by_profile(smoke=16, cpu=100, full=500)))
splits["test"] = splits["test"].select(range(by_profile(smoke=32, cpu=600, full=1500)))


def adapted(method: str | None, rank: int = 8):
    """The packaged encoder with that method in all its layers (None: nothing frozen), always the same head."""
    seed_everything(0)
    model, tokenizer = load_encoder("packaged", base_dropout=0.0)
    if method:
        config = AdapterConfig(
            method,
            rank=rank,
            alpha=16,
            target_modules=["query", "key", "value", "dense"],
            trainable=["classifier"],
        )
        inject(model, config, layer=VeRALinear if method == "vera" else None)
    return model.to(device).train(), tokenizer


def mebibytes_kept(model, tokenizer) -> float:
    """MiB kept for backward for the first 16 training sentences."""
    examples = tokenize_reviews(splits["train"].select(range(16)), tokenizer)
    batch = pad_collate(list(examples), tokenizer.pad_token_id)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    own = [*model.parameters(), *model.buffers()]
    return weigh(lambda: model(**batch).loss, own) / 2**20


weights = {
    "full": mebibytes_kept(*adapted(None)),
    "LoRA r=8": mebibytes_kept(*adapted("lora")),
    "LoRA-FA r=8": mebibytes_kept(*adapted("lora_fa")),
    "VeRA r=256": mebibytes_kept(*adapted("vera", rank=256)),
}
for name, mib in weights.items():
    print(f"{name:12s} keeps {mib:6.1f} MiB for backward")

# %% [markdown]
# Three readings, all of them against what one hears:
#
# - LoRA keeps about as much as full fine-tuning. It saves gradients and optimizer state, not activations.
# - LoRA-FA does save, but not down to N r: attention, GELU and the norms keep what they need, whatever the adapters do.
# - VeRA trains the fewest numbers, and the layer you wrote keeps the *most*. $\lambda_b$ asks for an output-sized tensor in every layer. (The
#   package's own VeRA computes it again in the backward pass instead, and keeps N r; lesson 09 is about that trade.)
#
# Fewer trained parameters is not less memory. They are two different bills.
#
# Now the training. Each method gets its own learning rate. They were tried beforehand on the *validation* split, a factor of about three
# apart, until the best had a worse one on either side. One rate for all would have made any of them look bad at will: VeRA's best is a
# hundred times LoRA's.

# %%
runs = [
    ("LoRA r=8", "lora", 8, "adamw", 1e-3),
    ("LoRA-FA r=8, plain gradient", "lora_fa", 8, "adamw", 1e-2),
    ("LoRA-FA r=8, projected", "lora_fa", 8, "lora_fa", 3e-3),
    ("VeRA r=256", "vera", 256, "adamw", 1e-1),
]
results = []
for name, method, rank, optimizer, learning_rate in runs:
    model, tokenizer = adapted(method, rank)
    if method == "lora_fa":  # your projection is what the optimizer of the package computes
        layer = next(iter(adapters(model).values()))
        gradient = torch.randn_like(layer.lora_B)
        mine = project_gradient(gradient, layer.lora_A, layer.scaling)
        assert_close(mine, project(gradient, layer), rtol=1e-3, atol=1e-4)
    history, result = train_sentiment(
        model,
        tokenizer,
        splits,
        TrainingConfig(epochs=1, batch_size=16, learning_rate=learning_rate, seed=0),
        optimizer=make_optimizer(model, learning_rate, method=optimizer, weight_decay=0.01),
        name=name,
        progress=False,
    )
    results.append((name, parameter_report(model).rows[0].trainable, history, result))
    print(f"{name}: {result}")

# %%
n = len(splits["test"])
print(f"{'':28s} {'trained':>9s} {'kept':>10s} {'seconds':>8s} {'accuracy':>9s}  standard error")
for name, trained, history, result in results:
    kept = weights[name.split(",")[0]]
    error = math.sqrt(result.accuracy * (1 - result.accuracy) / n)
    print(
        f"{name:28s} {trained:9,d} {kept:6.1f} MiB {history.summary.seconds:8.0f} {result.accuracy:9.3f}  {error:.3f}"
    )
print(
    f"\n{len(splits['train'])} training sentences of up to {WORDS} words once, {n} test sentences, one seed, {describe_device(device)}"
)
print("trained: adapters alone; the head has the same 770 parameters in each run")
best = results[0][-1].accuracy
for name, _, _, result in results[1:]:
    error = math.sqrt(
        (best * (1 - best) + result.accuracy * (1 - result.accuracy)) / n
    )  # of a difference
    print(
        f"{name} minus LoRA: {result.accuracy - best:+.3f}, {abs(result.accuracy - best) / error:.1f} standard errors"
    )

# %%
colors = {"LoRA r=8": "#0072B2", "LoRA-FA r=8": "#009E73", "VeRA r=256": "#D55E00", "full": "#999999"}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4))
axes[0].barh(list(weights), list(weights.values()), color=[colors[name] for name in weights])
axes[0].invert_yaxis()
axes[0].set(xlabel="MiB kept for backward, 16 sentences", title="Activation memory")
for row, (name, _, _, result) in enumerate(results):
    error = math.sqrt(result.accuracy * (1 - result.accuracy) / n)
    axes[1].errorbar(
        result.accuracy, row, xerr=2 * error, fmt="o", capsize=4, color=colors[name.split(",")[0]]
    )
axes[1].set_yticks(range(len(results)), [name.replace(", ", ",\n") for name, *_ in results])
axes[1].margins(y=0.15)
axes[1].invert_yaxis()
axes[1].set(xlabel="test accuracy, ± 2 standard errors", title="One seed, the same sentences")
fig.tight_layout()
plt.show()

# %% [markdown]
# Read it soberly. In the run saved with this lesson all four lie within two standard errors of one another: one seed and this many sentences
# show no order at all, and whichever dot is furthest right, another seed may put it last. (All runs answer the same sentences, so these errors
# are on the careful side.) A much larger comparison does show one, PEFT's own on MetaMathQA with Llama-3.2-3B, where each method has settings of
# its own: test accuracy .478 for LoRA on query and value, .404 for LoRA-FA, .354 for VeRA. So freezing can cost something, and a small
# test may not notice. Measure how much on your task.
#
# Our prediction held: at this width the two optimizers of LoRA-FA end up close together, closer than one seed could tell apart. (Their best rates
# are neighbours on our coarse grid, and no closer.)
#
# When would you choose which? LoRA-FA when activations are what does not fit: long inputs, many adapted layers. VeRA when adapters are
# stored by the thousand, one for each user, say. Otherwise LoRA.
#
# One thing all of them share: after training, the change folds into W, and inference costs nothing extra. The last model in memory holds *your*
# VeRA layers:

# %%
model.eval()
inputs = tokenizer(
    ["a warm , funny , beautifully acted film", "two hours that i will never get back"],
    padding=True,
    return_tensors="pt",
).to(device)
with torch.no_grad():
    before = model(**inputs).logits
    merge(model)
    after = model(**inputs).logits
assert_close(before, after, rtol=1e-4, atol=1e-4)
print(f"largest change of a logit by merging: {(before - after).abs().max():.0e}")

# %% [markdown]
# ## Self-test
#
# <details><summary>1. You give LoRA-FA a dropout of 0.1, and its layers keep many times as much as before. Why?</summary>
#
# Dropout keeps a mask with an entry for each of x's, to send the gradient back through it. The saving needs a frozen W, a
# frozen A, and dropout 0.
#
# </details>
# <details><summary>2. In LoRA-FA, why may B not be the frozen one, with A trained?</summary>
#
# It could be, but the gradient of A needs x: all N d entries would have to be kept, and the memory that the method is about would be
# gone. (And B could not stay at zero either: a frozen zero is a branch that never speaks.)
#
# </details>
# <details><summary>3. VeRA trains a tenth of LoRA's numbers. Name a bill that shrinks with that, and one that does not.</summary>
#
# The saved file, the gradients and the optimizer's state shrink. The activations kept for backward and the time of a step do not:
# with rank 256 the branch multiplies by more numbers than LoRA's of rank 8.
#
# </details>
#
# ## Reading
#
# - Zhang et al. 2023, [LoRA-FA](https://arxiv.org/abs/2308.03303): which activations a frozen A makes superfluous. The projected gradient came with its
#   second version.
# - Kopiczko et al. 2023, [VeRA](https://arxiv.org/abs/2310.11454): equation 2 is your layer; look for what they find when one of the two vectors is
#   left out.
# - Hu et al. 2021, [LoRA](https://arxiv.org/abs/2106.09685): what both of them start from.
# - Lesson 09 weighs every tensor of a training step and shows what can be computed again instead of kept.
