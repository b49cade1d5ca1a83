# %% [markdown]
# # 07 · rsLoRA, DoRA and PiSSA
#
# **The question.** LoRA scales its change by α/r, learns it in one piece, and starts it at zero. What happens if you change each of the three?
#
# **What you will be able to do**
# - say what a first training step does to a layer of rank r, and what rsLoRA's α/√r changes about it, for gradient descent and for Adam;
# - write DoRA, which trains the length of each weight row apart from its direction, without ever building the big matrix;
# - start an adapter at the large singular values of a weight, as PiSSA does, and know what that does to the base model;
# - save such an adapter so that it opens anywhere;
# - compare all four on a real task without fooling yourself.
#
# **Time and memory.** About 110 minutes, most of them yours: the cells take about a minute on two CPU cores, and about
# 2.5 GiB of memory.

# %%
import math
import statistics
import time

import matplotlib.pyplot as plt
import torch
from torch.testing import assert_close

from lora_course import AdapterConfig, inject, save_adapter
from lora_course.adapters import DoRA, LoRA, PiSSA, RsLoRA
from lora_course.assets import load_encoder, load_reviews
from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.memory import measure
from lora_course.teaching.exercises import check
from lora_course.teaching.profiles import by_profile

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
device = choose_device()
print(describe_device(device))

# %% [markdown]
# ## The scale: α/r or α/√r?
#
# Lesson 02 divided by the rank "so that a learning rate that works at rank 8 is a fair first guess at rank 32". Is that true? Let us look
# at the one moment where everything can be worked out on paper: the first step. B is zero, A is random, and $G$ is the gradient of
# the loss with respect to the whole weight, (out, in): what full fine-tuning would step along.
#
# ## Exercise 07.1 · The first step of rank r
#
# ★★ · 15 minutes
#
# Write `change_after_one_step(grad_W, A, scaling, learning_rate)`. One step of plain gradient descent moves A and B. Return the change of the
# *weight*, $sBA$ after that step, (out, in). B was zero before it.
#
# <details><summary>Nudge</summary>
#
# You derived the gradients of A and B in exercise 02.4. In terms of the whole weight they are $s\,G A^\top$ for B and $s\,B^\top G$ for A.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# B is zero, so A does not move. B becomes minus learning rate times its gradient.
#
# </details>
# <details><summary>Outline</summary>
#
# B₁ = −lr · s · G Aᵀ, of shape (out, r). The weight changes by s · B₁ A. Count how often s has come in.
#
# </details>


# %% exercise="07.1"
def change_after_one_step(
    grad_W: torch.Tensor, A: torch.Tensor, scaling: float, learning_rate: float
) -> torch.Tensor:
    """The (out, in) change of the weight after one step of gradient descent from B = 0. grad_W (out, in), A (r, in)."""
    ### BEGIN SOLUTION
    B = -learning_rate * scaling * grad_W @ A.T  # (out, r); A does not move, since B was 0
    return scaling * B @ A
    ### END SOLUTION


# %% check="07.1"
change_after_one_step = check("07.1", change_after_one_step)

# %% [markdown]
# The scaling came in twice, and $A^\top A$ is a sum over r rows. So the change goes like $s^2 r$: with α/r it is $\alpha^2/r$ and fades as the
# rank grows. With Kalajdzievski's (2023) *rank-stabilized* scaling, α/√r, it is $\alpha^2$ at every rank. That is the whole of rsLoRA.
#
# Almost nobody trains with plain gradient descent, though. Adam's first step has the size of the learning rate in every entry, whatever the
# gradient: $B_1 = -\eta\,\mathrm{sign}(G A^\top)$. Here s comes in only once. The cell measures both, on a random layer 768 wide: how much of its
# loss does the first step promise to remove (to first order, minus the product of gradient and change)?

# %%
seed_everything(0)
n_in, n_out, alpha = 768, 256, 16
G = torch.randn(64, n_out).T @ torch.randn(64, n_in) / 64  # the gradient of a batch of 64 tokens
ranks = [1, 2, 4, 8, 16, 32, 64, 128, 256]


def promised(change):
    """How much the loss falls to first order, if the weight changes by this much."""
    return -(G * change).sum().item()


scalings = {
    "LoRA, alpha / r": lambda r: alpha / r,
    "rsLoRA, alpha / sqrt r": lambda r: alpha / math.sqrt(r),
}
by_descent, by_adam = {name: [] for name in scalings}, {name: [] for name in scalings}
for rank in ranks:
    A = (2 * torch.rand(rank, n_in) - 1) / math.sqrt(n_in)  # as LoRA draws it
    for name, scaling in scalings.items():
        s = scaling(rank)
        by_descent[name].append(promised(change_after_one_step(G, A, s, 1.0)))
        by_adam[name].append(promised(-s * torch.sign(G @ A.T) @ A))

fig, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
panels = [(axes[0], by_descent, "gradient descent"), (axes[1], by_adam, "Adam")]
for ax, results, title in panels:
    for (name, values), color, style in zip(
        results.items(), [BLUE, ORANGE], ["o-", "s--"], strict=True
    ):
        ax.loglog(ranks, [v / values[0] for v in values], style, color=color, label=name, base=2)
    ax.set(xlabel="rank r", title=f"first step of {title}")
    ax.grid(alpha=0.3)
axes[0].set_ylabel("promised fall of the loss,\nrelative to rank 1")
axes[0].legend()
fig.tight_layout()
plt.show()
for _, results, title in panels:
    for name, values in results.items():
        print(f"{title:16s} {name:22s} rank 256 over rank 1: {values[-1] / values[0]:7.3f}")

# %% [markdown]
# On the left is the paper's argument, and it holds: with α/r the step of rank 256 is a few hundred times weaker than that of rank 1, with α/√r it
# is the same. On the right is what you will use. Adam has normalised the size away once already, so α/r is level there, and α/√r *grows* like √r. So
# with Adam, rsLoRA is not a cure for vanishing steps; it is a higher effective learning rate at high ranks. That may be just
# what a high rank wants (the paper's experiments at high ranks gain by it), and it may be what makes a run diverge. This is the first step only,
# on a random layer: later steps mix both pictures.
#
# At one rank there is nothing to argue about at all. rsLoRA *is* LoRA with α·√r in place of α:

# %% tags=["nbval-check-output"]
seed_everything(0)
base = torch.nn.Linear(20, 12)
rank_stabilized = RsLoRA(base, AdapterConfig(method="rslora", rank=16, alpha=16))
torch.nn.init.normal_(rank_stabilized.lora_B)
A, B = rank_stabilized.lora_A, rank_stabilized.lora_B
plain = LoRA(base, AdapterConfig(rank=16, alpha=64), A, B)
x = torch.randn(5, 20)
print(
    f"rsLoRA, alpha 16: scaling {rank_stabilized.scaling:g}; LoRA, alpha 64: scaling {plain.scaling:g}"
)
print("same outputs:", torch.equal(rank_stabilized(x), plain(x)))

# %% [markdown]
# So a table in which rsLoRA beats LoRA at a single rank and the same α has compared two learning rates. Keep that in mind for the real run.

# %% [markdown]
# ## Length and direction: DoRA
#
# A row of W belongs to one output. Like every vector it has a length and a direction. Liu et al. (2024) saw that where full fine-tuning
# changes one a lot it tends to change the other little, while LoRA changes both a lot or both a little. So they train them apart:
#
# $$h = m \odot \frac{V x}{\lVert V \rVert} + b, \qquad V = W + \tfrac{\alpha}{r} BA$$
#
# $V$ only gives the direction. $m$, one trained number for each output, gives the length, and starts at the length of W's rows, so that training begins
# at the pretrained model. Three details decide whether it works:
#
# - *which* length: one for each output, so over dimension 1 of a weight (out, in), as in PEFT. (The paper says "column"; do not let that mislead you);
# - the length is treated as a **constant** in the backward pass. $\lVert V\rVert$ is recomputed at each forward, but no gradient flows through it: this saves
#   memory, and the authors report next to no loss by it;
# - the bias is no part of the row: it is added at the end, not stretched.
#
# ## Exercise 07.2 · The DoRA forward
#
# ★★★ · 20 minutes
#
# Write `dora_forward(x, W, bias, A, B, magnitude, scaling)` for x of shape (..., in). You may build V for its lengths here; the next exercise gets
# rid of it. For the output itself, multiply x by W and by the branch separately, as in LoRA.
#
# <details><summary>Nudge</summary>
#
# $Vx = Wx + sB(Ax)$: LoRA's output without the bias. Then every output is multiplied by one number.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `V.norm(dim=1)` has shape (out,), and so does the magnitude: they broadcast against (..., out). `.detach()` cuts the gradient.
#
# </details>
# <details><summary>Outline</summary>
#
# lengths = norm of the rows of W + s B A, detached; z = x Wᵀ + s (x Aᵀ) Bᵀ; return magnitude / lengths · z + bias.
#
# </details>


# %% exercise="07.2"
def dora_forward(
    x: torch.Tensor,
    W: torch.Tensor,
    bias: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    magnitude: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """x (..., in), W (out, in), bias (out,), A (r, in), B (out, r), magnitude (out,); returns (..., out)."""
    ### BEGIN SOLUTION
    lengths = (W + scaling * B @ A).norm(dim=1).detach()  # (out,)
    z = x @ W.T + scaling * (x @ A.T) @ B.T  # (..., out)
    return magnitude / lengths * z + bias
    ### END SOLUTION


# %% check="07.2"
dora_forward = check("07.2", dora_forward)

# %% [markdown]
# ## Exercise 07.3 · Row lengths without the big matrix
#
# ★★★ · 20 minutes
#
# Your forward builds $W + sBA$ in full, (out, in), only to measure its rows. For a model with 4096 × 4096 layers that is 64 MiB a layer, made and thrown
# away in each step. It can be avoided. Row i of V is $W_i + s B_i A$, so
#
# $$\lVert V_i\rVert^2 = \lVert W_i\rVert^2 + 2s\, W_i \cdot (B_iA) + s^2 \lVert B_iA \rVert^2$$
#
# and the last two terms can be computed with matrices that have one side of length r. Write `row_norms(W, A, B, scaling)` that returns the
# lengths (out,) and makes no tensor as large as W on the way. (The check watches every tensor you make.)
#
# <details><summary>Nudge</summary>
#
# $W_i \cdot (B_i A) = (W_i A^\top) \cdot B_i$, and $W A^\top$ is only (out, r).
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# $\lVert B_iA\rVert^2 = B_i (AA^\top) B_i^\top$. The *Gram matrix* $AA^\top$ is r × r. And `W.square()` is as large as W:
# `torch.linalg.vector_norm(W, dim=1)` is not.
#
# </details>
# <details><summary>Outline</summary>
#
# C = W Aᵀ. squares = vector_norm(W)² + 2 s (C · B).sum(1) + s² ((B (A Aᵀ)) · B).sum(1), with entry-by-entry products of (out, r) matrices;
# then the root.
#
# </details>


# %% exercise="07.3"
def row_norms(W: torch.Tensor, A: torch.Tensor, B: torch.Tensor, scaling: float) -> torch.Tensor:
    """The length of each row of W + scaling * B A, (out,). W (out, in), A (r, in), B (out, r)."""
    ### BEGIN SOLUTION
    C = W @ A.T  # (out, r)
    squares = torch.linalg.vector_norm(W, dim=1).square()  # (out,)
    squares = squares + 2 * scaling * (C * B).sum(1)
    squares = squares + scaling**2 * (B @ (A @ A.T) * B).sum(1)
    return squares.clamp_min(0).sqrt()
    ### END SOLUTION


# %% check="07.3"
row_norms = check("07.3", row_norms)

# %% [markdown]
# ## The start: PiSSA
#
# LoRA starts with a change of zero and frozen weights that know everything. Meng et al. (2024) turn that round. The singular value decomposition
# $W = U S V^\top$ sorts what a weight does by strength. PiSSA puts the r strongest directions into A and B and trains *those*; the rest stays frozen in
# the base layer:
#
# $$B = U_r \sqrt{S_r / s} \qquad A = \sqrt{S_r / s}\; V_r^\top \qquad W_\text{res} = W - sBA$$
#
# The output is that of the pretrained model, and both A and B get large gradients from the first step on. Nothing else differs from LoRA: same
# parameters, same cost.
#
# ## Exercise 07.4 · Start at the large singular values
#
# ★★ · 15 minutes
#
# Write `pissa_init(W, rank, scaling)` that returns what stays in the base, A and B. Leave W itself as it is.
#
# <details><summary>Nudge</summary>
#
# `torch.linalg.svd(W, full_matrices=False)` returns U, S and Vh, and Vh is transposed already: its *rows* are the directions. S is sorted,
# largest first.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# It is $sBA$ that must hold the large part, not $BA$: so each of A and B gets $\sqrt{S_r/s}$.
#
# </details>
# <details><summary>Outline</summary>
#
# root = sqrt(S[:rank] / scaling), (r,). A is Vh[:rank] with row j multiplied by root j; B is U[:, :rank] with column j multiplied by root j.
#
# </details>


# %% exercise="07.4"
def pissa_init(
    W: torch.Tensor, rank: int, scaling: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """W_residual (out, in), A (rank, in), B (out, rank) with W_residual + scaling * B A = W."""
    ### BEGIN SOLUTION
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    root = torch.sqrt(S[:rank] / scaling)  # (r,)
    A = root.unsqueeze(1) * Vh[:rank]
    B = U[:, :rank] * root
    return W - scaling * B @ A, A, B
    ### END SOLUTION


# %% check="07.4"
pissa_init = check("07.4", pissa_init)

# %% [markdown]
# How much of a real weight is that? Here are the query weights of the six layers of a pretrained encoder. Beside PiSSA stands its cheaper cousin
# **OLoRA** (Büyükakyüz 2024): a QR decomposition, $W = QR$, of which it takes the first r columns of Q and rows of R. That is far faster than an SVD, but
# what it finds is the part of W that its first r columns happen to span.

# %%
encoder, tokenizer = load_encoder("packaged", base_dropout=0.0)
print("share of a query weight's squared entries that rank 8 takes over")
for number, block in enumerate(encoder.bert.encoder.layer):
    W = block.attention.self.query.weight.detach()
    residual, A, B = pissa_init(W, 8, 2.0)
    Q, R = torch.linalg.qr(W)
    shares = [
        1 - (left.norm() / W.norm()).square().item() for left in (residual, W - Q[:, :8] @ R[:8])
    ]
    print(f"  layer {number}: PiSSA {shares[0]:6.1%}   OLoRA {shares[1]:6.1%}")

# %% [markdown]
# A third relative, **LoftQ** (Li et al. 2023), uses the same freedom for quantization: if W must be squeezed into four bits, start A and B at what the
# squeezing lost, so that $Q + BA$ is near W, and repeat. Lesson 10 has the quantizer that it needs.

# %% [markdown]
# ## Bug lab · The file that brought half a model
#
# A PiSSA layer has the same A and B as a LoRA layer, with the same names and shapes. So saving is easy: write them out, and load them back as for LoRA.


# %%
TARGETS = ["query", "key", "value", "dense"]


def save_naively(model):
    """A and B of every adapter."""
    return {name: t.detach().clone() for name, t in model.state_dict().items() if "lora_" in name}


def load_naively(tensors):
    """A fresh base model with these A and B around it."""
    model, _ = load_encoder("packaged", base_dropout=0.0)
    inject(model, AdapterConfig(rank=8, alpha=16, target_modules=TARGETS, trainable=["classifier"]))
    model.load_state_dict(tensors, strict=False)
    return model.to(device).eval()


# %% [markdown]
# **Predict.** We inject an adapter, train it for **zero** steps, save it, load it, and compare the encoder's sentence vectors with those from before.
# An untrained adapter should change nothing. How similar are the vectors (cosine, 1 is the same direction) for LoRA? For PiSSA?
#
# **Run.**

# %%
sentences = [
    "a warm , funny , beautifully acted film",
    "two hours that i will never get back",
    "the plot is thin but the songs are great",
]


@torch.no_grad()
def sentence_vectors(model):
    """The mean hidden state of each sentence, (3, 384)."""
    inputs = tokenizer(sentences, padding=True, return_tensors="pt").to(device)
    mask = inputs["attention_mask"].unsqueeze(-1)
    return (model.bert(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)


original = sentence_vectors(encoder.to(device).eval())
for method in ("lora", "pissa"):
    model, _ = load_encoder("packaged", base_dropout=0.0)
    inject(
        model,
        AdapterConfig(
            method=method, rank=8, alpha=16, target_modules=TARGETS, trainable=["classifier"]
        ),
    )
    before = sentence_vectors(model.to(device).eval())
    after = sentence_vectors(load_naively(save_naively(model)))
    cosines = [torch.cosine_similarity(original, v).mean().item() for v in (before, after)]
    print(f"{method:5s}: injected {cosines[0]:.3f}, saved and loaded {cosines[1]:.3f}")

# %% [markdown]
# **Explain.** PiSSA *changed the base*: it took sBA out of every weight. A and B are not a change of the model, they are a piece of it. Put
# around the untouched base, that piece is there twice: $W + sBA$ instead of $W_\text{res} + sBA$. No error, no warning, right shapes, and a model
# whose strongest directions count double. OLoRA does the same. And a second
# adapter that was made for the same base would now find another one.
#
# **Fix.** Save the *difference* that training made. That is the next exercise.

# %% [markdown]
# ## Exercise 07.5 · A file that opens anywhere
#
# ★★ · 15 minutes
#
# Keep a copy of A and B from the start, $A_0$ and $B_0$. Around the untouched W, the trained layer is
#
# $$W_\text{res} + sBA = W + s\,(BA - B_0A_0)$$
#
# and a difference of two rank-r products is one product of rank 2r. Write `export_as_lora(A, B, A0, B0, alpha)` that returns A of shape (2r, in), B of shape
# (out, 2r) and the alpha with which a *plain LoRA* of rank 2r gives that change. `alpha` is PiSSA's, so $s = \alpha/r$.
#
# <details><summary>Nudge</summary>
#
# $BA - B_0A_0$ is a row of two blocks times a column of two blocks.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# One minus sign is needed, on one of the four blocks. And a plain LoRA of rank 2r will divide its alpha by 2r.
#
# </details>
# <details><summary>Outline</summary>
#
# `torch.cat([A, A0])` stacks rows, `torch.cat([B, -B0], dim=1)` puts columns side by side. Twice the rank needs twice the alpha.
#
# </details>


# %% exercise="07.5"
def export_as_lora(
    A: torch.Tensor, B: torch.Tensor, A0: torch.Tensor, B0: torch.Tensor, alpha: float
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A (2r, in), B (out, 2r) and alpha of the plain LoRA around the untouched weight. A, A0 (r, in), B, B0 (out, r)."""
    ### BEGIN SOLUTION
    return torch.cat([A, A0]), torch.cat([B, -B0], dim=1), 2 * alpha
    ### END SOLUTION


# %% check="07.5"
export_as_lora = check("07.5", export_as_lora)

# %% [markdown]
# ## The real run
#
# Four methods, one encoder, the same sentences in the same order, one pass. *Your* `dora_forward` is what DoRA runs, *your* `pissa_init` is what PiSSA
# starts from.
#
# What about the learning rate? Each method gets its own: rates a factor of two apart were tried beforehand on the same sentences, until the best had a worse one on
# either side. The loss on the validation split was the judge, never the test split. One rate for all would be no fair comparison: at rank 8, rsLoRA's scale is √8 times LoRA's, and PiSSA's A and B are large from the start, so that an equal step of Adam changes their product more.


# %%
from lora_course.training.config import TrainingConfig
from lora_course.training.sentiment import evaluate_sentiment, train_sentiment


class MyDoRA(DoRA):
    """The package's DoRA with your forward."""

    def forward(self, x):
        return dora_forward(
            x,
            self.weight,
            self.bias,
            self.lora_A,
            self.lora_B,
            self.lora_magnitude_vector,
            self.scaling,
        )


class MyPiSSA(PiSSA):
    """The package's PiSSA with your start."""

    def principal_part(self, W):
        _, A, B = pissa_init(W, self.config.rank, self.scaling)
        return A, B


RATES = {"lora": 4e-3, "rslora": 2e-3, "dora": 4e-3, "pissa": 5e-4}
MINE = {"dora": MyDoRA, "pissa": MyPiSSA}
WORDS = by_profile(smoke=18, cpu=18, full=60)  # at most: short sentences for short runs
splits = load_reviews("rotten_tomatoes", max_words=WORDS)
for split, sizes in {
    "train": dict(smoke=32, cpu=960, full=6000),
    "validation": dict(smoke=32, cpu=200, full=500),
    "test": dict(smoke=64, cpu=500, full=1000),
}.items():
    splits[split] = splits[split].select(range(by_profile(**sizes)))


def adapted(method, layer=None):
    """A fresh encoder with adapters of this method; the same head for all."""
    seed_everything(0)
    model, _ = load_encoder("packaged", base_dropout=0.0)
    config = AdapterConfig(
        method=method, rank=8, alpha=16, target_modules=TARGETS, trainable=["classifier"]
    )
    return inject(model, config, layer=layer).to(device)


histories, results = {}, {}
for method, rate in RATES.items():
    model = adapted(method, MINE.get(method))
    histories[method], results[method] = train_sentiment(
        model,
        tokenizer,
        splits,
        TrainingConfig(epochs=1, batch_size=16, learning_rate=rate, seed=0),
        name=method,
    )
    print(f"{method:7s} learning rate {rate:g}: {results[method]}")
trained = model.eval()  # PiSSA, the last of the four: we need it again at the end

# %% [markdown]
# Before the table: what does each of them cost? Two things can be measured on one batch of 16 sentences. *Saved bytes* are what autograd keeps for the
# backward pass, each storage counted once, without parameters. *Step time* is forward plus backward; the four take turns, so that a busy machine
# slows all of them, and we take the median. (These are the package's own layers, not your forward.)


# %%
texts = splits["train"][:16]
batch = dict(tokenizer(texts["text"], padding=True, return_tensors="pt").to(device))
batch["labels"] = torch.tensor(texts["label"], device=device)
timed = {method: adapted(method).train() for method in RATES}
saved = {method: measure(model, batch).saved / 2**20 for method, model in timed.items()}
seconds = {method: [] for method in RATES}
for _ in range(by_profile(smoke=1, cpu=15, full=30)):
    for method, model in timed.items():
        began = time.perf_counter()
        model(**batch).loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds[method].append(time.perf_counter() - began)
step = {method: statistics.median(times) for method, times in seconds.items()}
del timed

print(
    f"{describe_device(device)}; encoder all-MiniLM-L6-v2, rank 8, alpha 16, batch of 16 x {batch['input_ids'].shape[1]} tokens;"
)
print(
    f"{len(splits['train'])} sentences of up to {WORDS} words for training, once; {len(splits['test'])} for the test; one seed\n"
)
print("         trained    saved for backward   step, LoRA = 1   run       test accuracy")
for method, result in results.items():
    error = math.sqrt(result.accuracy * (1 - result.accuracy) / result.n)
    print(
        f"{method:7s} {histories[method].run.trainable_parameters:8,d}   {saved[method]:9.1f} MiB      {step[method] / step['lora']:9.2f}"
        f"      {histories[method].summary.seconds:5.0f} s     {result.accuracy:.3f} ± {error:.3f}"
    )
accuracies = sorted(result.accuracy for result in results.values())
gap, middle = accuracies[-1] - accuracies[0], statistics.mean(accuracies)
difference = math.sqrt(2 * middle * (1 - middle) / len(splits["test"]))
print(
    f"\nbest minus worst: {gap:.3f}, that is {gap / difference:.1f} standard errors of a difference"
)

# %%
fig, ax = plt.subplots(figsize=(7, 3.8))
looks = zip(histories.items(), [BLUE, ORANGE, GREEN, PURPLE], ["-", "--", "-.", ":"], strict=True)
for (method, history), color, style in looks:
    losses = torch.tensor([row.loss for row in history.steps])
    window = max(1, len(losses) // 5)
    mean = losses.unfold(0, window, 1).mean(1)
    ax.plot(range(window, len(losses) + 1), mean, color=color, linestyle=style, label=method)
ax.set(
    xlabel="optimizer step",
    ylabel="training loss (nats), running mean",
    title="Four adapters, the same sentences",
)
ax.legend()
fig.tight_layout()
plt.show()

# %% [markdown]
# ## A sober verdict
#
# - The ± is one standard error, and counts nothing but the number of test sentences. A gap of less than two standard errors *of a difference* says nothing about which method is
#   better, and a wider one would still be one seed. How wide is the widest in your table? Change the seed, and see whether the order survives.
# - LoRA, rsLoRA and PiSSA compute the very same thing in each step. Whatever the table shows between their step times is the noise of this measurement, and tells you how seriously to take DoRA's.
# - **rsLoRA** costs nothing and at one rank is nothing but another α. Its argument is about going *up* in rank without touching the learning rate. That
#   the search above gave it a lower rate than LoRA is what its louder scale would make you expect.
# - **DoRA** has a few more parameters, keeps more for the backward pass and takes longer; that much is measured above, on any seed. What it buys on a small task is below
#   what this many sentences can show.
# - **PiSSA** costs what LoRA costs, but for one SVD at the start and a file of twice the rank. If its loss falls sooner, look at its learning rate and the size of
#   its A and B before you praise the singular vectors.
#
# None of this says that the papers are wrong: they measure larger models, longer runs and several seeds. It says what a table like this one can carry.

# %% [markdown]
# ## Does the PiSSA file open elsewhere?
#
# Now the bug lab again, with a trained adapter: the naive file, *your* export around an untouched base, and what `save_adapter` wrote, opened in PEFT.

# %%
import tempfile
import warnings

from peft import PeftModel

naive = load_naively(
    {n: t for n, t in trained.state_dict().items() if "lora_" in n or "classifier" in n}
)

exported, _ = load_encoder("packaged", base_dropout=0.0)
inject(exported, AdapterConfig(rank=16, alpha=32, target_modules=TARGETS, trainable=["classifier"]))
for name, layer in exported.named_modules():
    if isinstance(layer, LoRA):
        theirs = trained.get_submodule(name)
        A, B, alpha = export_as_lora(
            theirs.lora_A, theirs.lora_B, theirs.initial_A, theirs.initial_B, theirs.config.alpha
        )
        assert alpha == layer.config.alpha
        layer.lora_A.data.copy_(A)
        layer.lora_B.data.copy_(B)
exported.classifier.load_state_dict(trained.classifier.state_dict())
exported.to(device).eval()

warnings.filterwarnings(
    "ignore", ".*is_gradient_checkpointing"
)  # PEFT reads an old name of transformers
with tempfile.TemporaryDirectory() as folder:
    save_adapter(trained, folder)
    fresh, _ = load_encoder("packaged", base_dropout=0.0)
    in_peft = PeftModel.from_pretrained(fresh, folder).to(device).eval()

with torch.no_grad():
    logits = {
        name: model(**batch).logits
        for name, model in {"naive": naive, "exported": exported, "PEFT": in_peft}.items()
    }
    right = trained(**batch).logits
for name, theirs in logits.items():
    print(f"{name:9s} largest difference in a logit: {(theirs - right).abs().max():.1e}")
assert_close(logits["exported"], right, rtol=1e-3, atol=1e-3)
assert_close(logits["PEFT"], right, rtol=1e-3, atol=1e-3)
print(f"trained PiSSA      {evaluate_sentiment(trained, tokenizer, splits['test'])}")
print(f"naive file         {evaluate_sentiment(naive, tokenizer, splits['test'])}")
print(f"exported, rank 16  {evaluate_sentiment(exported, tokenizer, splits['test'])}")

# %% [markdown]
# ## Self-test
#
# Answer before you open them.
#
# <details><summary>1. You trained with rsLoRA, rank 16, α 16. Which α does a plain LoRA of rank 16 need to be the same layer?</summary>
#
# Its scaling is 16/√16 = 4, and a plain LoRA has α/16. So α = 64.
#
# </details>
# <details><summary>2. Why does DoRA's magnitude start at the row lengths of W, and not at 1?</summary>
#
# At the start V = W. Divided by its own length, each row has length 1; only multiplied by the old length is it the old row again. With m = 1 training would
# begin at another model than the pretrained one.
#
# </details>
# <details><summary>3. A colleague loads your exported PiSSA file and trains on. Is that still PiSSA?</summary>
#
# No. It is a plain LoRA of rank 2r around the untouched base, with twice the parameters, of which half began as the old principal part with a minus sign. It is a
# fine thing to run or to merge. To go on with PiSSA itself, go on from a checkpoint of the whole training run.
#
# </details>
#
# ## Reading
#
# - Kalajdzievski 2023, [A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA](https://arxiv.org/abs/2312.03732): the argument about the
#   rank, with every moment and not only the first step.
# - Liu et al. 2024, [DoRA](https://arxiv.org/abs/2402.09353): section 3 compares lengths and directions of LoRA and full fine-tuning; section 4.3 is the detached norm.
# - Meng et al. 2024, [PiSSA](https://arxiv.org/abs/2404.02948): also why starting there helps quantization.
# - Büyükakyüz 2024, [OLoRA](https://arxiv.org/abs/2406.01775), and Li et al. 2023, [LoftQ](https://arxiv.org/abs/2310.08659): the two relatives.
# - Lesson 05 made adapters smaller; lesson 10 quantizes their base, and lesson 11 lets the rank itself change.
