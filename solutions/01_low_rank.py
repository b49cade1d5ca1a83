# %% [markdown]
# # 01 · Why low rank?
#
# **The question.** Fine-tuning changes millions of numbers. Could a few thousand say the same?
#
# **What you will be able to do**
# - cut a matrix down to rank r in the best possible way, and know how much is lost;
# - say what a rank costs, and from where on it costs more than it saves;
# - measure in how few directions a task can be learned;
# - read the equations of LoRA and its relatives, and *test* them against code instead of believing them;
# - fully fine-tune a real encoder, take its weight change apart, and judge for yourself how low its rank is.
#
# **Time and memory.** About 80 minutes, most of them yours: the cells run for about two minutes on two CPU cores, and need about
# 1.5 GiB of memory.

# %%
import statistics

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from lora_course import AdapterConfig, adapters, inject, make_optimizer, parameter_report
from lora_course.adapters.delta_lora import DeltaUpdate
from lora_course.assets import load_encoder, load_reviews
from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.teaching.exercises import check
from lora_course.teaching.profiles import by_profile, current_profile
from lora_course.training.config import TrainingConfig
from lora_course.training.sentiment import evaluate_sentiment, tokenize_reviews, train_sentiment

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
device = choose_device()
print(describe_device(device))
print(f"profile: {current_profile()}")

# %% [markdown]
# ## A matrix is a sum of simple ones
#
# Take any matrix $M$ of shape (out, in). The *singular value decomposition* writes it as a sum
#
# $$M = \sum_i \sigma_i\, u_i v_i^\top = U\, \mathrm{diag}(\sigma)\, V^\top \qquad \sigma_1 \ge \sigma_2 \ge \dots \ge 0$$
#
# Each term is as simple as a matrix can be: it asks "how much of direction $v_i$ is in the input?", and answers along direction
# $u_i$, $\sigma_i$ times as loudly. The $u_i$ are at right angles to each other, and so are the $v_i$. The *rank* of $M$ is the
# number of terms that are not zero.
#
# If the $\sigma_i$ fall fast, the first few terms are nearly all of it, and few numbers are enough: $r$ terms hold
# $r\,(\text{in} + \text{out})$ numbers instead of $\text{in} \cdot \text{out}$. The theorem of Eckart and Young (1936) says that
# nothing of rank r is closer to $M$ than its first r terms, and tells how far away those are:
#
# $$\min_{\operatorname{rank} X \le r} \lVert M - X \rVert_F^2 = \sum_{i > r} \sigma_i^2$$

# %% [markdown]
# ## Exercise 01.1 · The best matrix of rank r
#
# ★★ · 10 minutes
#
# Write `truncate(matrix, rank)`: the best approximation of a matrix (out, in) by one of that rank, as a matrix of the same shape.
# Rank 0 is a matrix of zeros. `torch.linalg.svd` may do the work.
#
# <details><summary>Nudge</summary>
#
# Three tensors come back: U, the singular values as a vector, and V *already transposed*. Which part of each belongs to the first
# r terms?
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# Columns of U, entries of S, rows of Vh. With `full_matrices=False` the shapes fit: (out, k), (k,), (k, in), where k is the smaller
# side.
#
# </details>
# <details><summary>Outline</summary>
#
# `(U[:, :rank] * S[:rank])` scales each column by its singular value; multiply that by `Vh[:rank]`.
#
# </details>


# %% exercise="01.1"
def truncate(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """The best approximation of `matrix` (out, in) of the given rank, in the same shape."""
    ### BEGIN SOLUTION
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)  # (out, k), (k,), (k, in)
    return (U[:, :rank] * S[:rank]) @ Vh[:rank]
    ### END SOLUTION


# %% check="01.1"
truncate = check("01.1", truncate)

# %% [markdown]
# Is it really the best? LoRA does not compute an SVD: it *learns* B and A. Let gradient descent try to beat the theorem: we fit $BA$ to
# a random matrix for a thousand steps and look at how far above the bound it ends. It can come close; it can never get below.

# %%
seed_everything(0)
matrix = torch.randn(24, 32) @ torch.diag(0.8 ** torch.arange(32.0)) @ torch.randn(32, 32)
sigma = torch.linalg.svdvals(matrix)
for rank in (1, 4, 8):
    bound = sigma[rank:].square().sum()
    assert_close((matrix - truncate(matrix, rank)).square().sum(), bound, rtol=1e-4, atol=1e-4)
    B = torch.randn(24, rank, requires_grad=True)
    A = torch.randn(rank, 32, requires_grad=True)
    optimizer = torch.optim.Adam([B, A], lr=0.05)
    for _ in range(1000):
        error = (matrix - B @ A).square().sum()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    print(
        f"rank {rank}: squared error of SVD {bound:8.2f}, of 1 000 steps of Adam {error.item():8.2f}"
    )
    assert error > bound * (1 - 1e-4)

# %% [markdown]
# ## Exercise 01.2 · How much rank for how much of it?
#
# ★★ · 8 minutes
#
# The *energy* of a matrix is the sum of its squared singular values, which is the same as the sum of its squared entries. How many terms
# hold 90 % of it? Write `rank_for_energy(singular_values, share)`: the smallest rank whose terms hold at least that share, as an int.
# The singular values come sorted from large to small.
#
# <details><summary>Nudge</summary>
#
# What do you get if you add the squares up one after the other, and divide by the last sum?
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `cumsum` gives the running sums. Count how many of them are still *below* the share: one more term is enough.
#
# </details>
# <details><summary>Outline</summary>
#
# Squares in float64, `cumsum(0)`, divided by the sum; the number of entries below `share`, plus 1. Rounding may leave even the
# last one a hair below 1: never return more than there are. A tolerance of 1e-12 keeps a share that is met exactly from being
# missed by rounding.
#
# </details>


# %% exercise="01.2"
def rank_for_energy(singular_values: torch.Tensor, share: float) -> int:
    """The smallest rank that holds at least `share` (0 to 1) of the energy; singular_values (k,), largest first."""
    ### BEGIN SOLUTION
    energy = singular_values.double() ** 2
    captured = energy.cumsum(0) / energy.sum()
    below = int((captured < share - 1e-12).sum())
    return min(below + 1, len(captured))
    ### END SOLUTION


# %% check="01.2"
rank_for_energy = check("01.2", rank_for_energy)

# %% [markdown]
# ## Exercise 01.3 · When low rank stops being cheap
#
# ★ · 8 minutes
#
# A rank-r change of a layer is held as two thin matrices, B (out, r) and A (r, in). Write `largest_cheaper_rank(in_features,
# out_features)`: the largest rank at which B and A together hold *fewer* numbers than the whole matrix. (Lesson 02 will count them
# again, from a real layer.)
#
# <details><summary>Nudge</summary>
#
# Write both prices down, and ask for which r the first is below the second.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# r (in + out) < in · out. If r (in + out) equals in · out exactly, that r is *not* cheaper.
#
# </details>
# <details><summary>Outline</summary>
#
# The largest whole number below in · out / (in + out): subtract 1 from the product, then divide with `//`.
#
# </details>


# %% exercise="01.3"
def largest_cheaper_rank(in_features: int, out_features: int) -> int:
    """The largest rank at which B and A hold fewer numbers than the (out, in) matrix."""
    ### BEGIN SOLUTION
    return (in_features * out_features - 1) // (in_features + out_features)
    ### END SOLUTION


# %% check="01.3"
largest_cheaper_rank = check("01.3", largest_cheaper_rank)

# %% tags=["nbval-check-output"]
for name, n_in, n_out in [
    ("our encoder, query", 384, 384),
    ("our encoder, intermediate", 384, 1536),
    ("bert-base, query", 768, 768),
    ("a 7B Llama, MLP up", 4096, 11008),
]:
    rank8 = 8 * (n_in + n_out)
    print(
        f"{name:25s} {n_out:5d} x {n_in:4d}: rank 8 holds {rank8:7,d} of {n_in * n_out:10,d} numbers "
        f"({100 * rank8 / (n_in * n_out):.2f} %), cheaper up to rank {largest_cheaper_rank(n_in, n_out)}"
    )

# %% [markdown]
# The wider the layer, the better the bargain: the price of a rank grows with the width, that of the matrix with its square. So low rank
# is *cheap*. Is it also *enough*? Three kinds of evidence follow.
#
# ## First evidence: intrinsic dimension
#
# Li et al. (2018) asked: in how many directions must a network be free to move, to learn a task? Draw a random matrix $P$ of shape
# (D, d), once and for ever, and let the D weights of the network move only as
#
# $$\theta = \theta_0 + P z$$
#
# where the d numbers in $z$ are all that is trained. Raise d until the result is, say, 90 % as good as with all D numbers free: that d is
# the *intrinsic dimension* of the task. Aghajanyan et al. (2020) did so with pretrained language models and report that 200
# numbers take RoBERTa to 90 % of full fine-tuning on one task, MRPC, and that larger models tend to need fewer. That is what made
# LoRA's authors look for a small change.
#
# Here is the experiment in small. A frozen encoder turns each sentence into 384 numbers (the mean of its outputs); a
# little network with one hidden layer must say whether the sentence is positive.

# %%
reviews = load_reviews("rotten_tomatoes")
SENTENCES = by_profile(smoke=32, cpu=1200, full=6000)
TESTED = by_profile(smoke=32, cpu=500, full=1500)
seed_everything(0)
frozen, tokenizer = load_encoder("packaged", base_dropout=0.0)
frozen.to(device)


@torch.no_grad()
def sentence_vectors(split, count):
    """(count, 384) means of the encoder's outputs, and the labels (count,)."""
    texts, vectors = list(split["text"][:count]), []
    for start in range(0, count, 50):
        batch = tokenizer(texts[start : start + 50], padding=True, return_tensors="pt").to(device)
        outputs = frozen.base_model(**batch).last_hidden_state  # (50, L, 384)
        mask = batch["attention_mask"].unsqueeze(-1)
        vectors.append((outputs * mask).sum(1) / mask.sum(1))
    return torch.cat(vectors).cpu(), torch.tensor(split["label"][:count])


vectors, labels = sentence_vectors(reviews["train"], by_profile(smoke=50, cpu=800, full=2000))
test_vectors, test_labels = sentence_vectors(
    reviews["test"], by_profile(smoke=50, cpu=500, full=1500)
)
mean, spread = vectors.mean(0), vectors.std(0)
vectors, test_vectors = (vectors - mean) / spread, (test_vectors - mean) / spread

# %%
HIDDEN = 16
SIZES = [384 * HIDDEN, HIDDEN, 2 * HIDDEN, 2]  # weight and bias, twice
D = sum(SIZES)


def network(theta, x):
    """All D weights come as one vector theta."""
    W1, b1, W2, b2 = theta.split(SIZES)
    return F.linear(torch.tanh(F.linear(x, W1.view(HIDDEN, 384), b1)), W2.view(2, HIDDEN), b2)


def accuracy_in_subspace(d: int | None, seed: int, steps: int = 150) -> float:
    """Test accuracy if theta may move along d random directions; None: along all D."""
    seed_everything(seed)
    start = torch.cat(
        [
            torch.randn(SIZES[0]) / 384**0.5,
            torch.zeros(HIDDEN),
            torch.randn(SIZES[2]) / 4,
            torch.zeros(2),
        ]
    )
    P = None if d is None else torch.randn(D, d) / D**0.5  # columns of length about 1
    z = torch.zeros(d or D, requires_grad=True)
    optimizer = torch.optim.Adam([z], lr=2e-3 if P is None else 0.3)
    for _ in range(steps):
        theta = start + (z if P is None else P @ z)
        optimizer.zero_grad()
        F.cross_entropy(network(theta, vectors), labels).backward()
        optimizer.step()
    with torch.no_grad():
        theta = start + (z if P is None else P @ z)
        return (network(theta, test_vectors).argmax(1) == test_labels).float().mean().item()


dimensions = by_profile(smoke=[4, 64], cpu=[1, 4, 16, 64, 256], full=[1, 4, 16, 64, 256, 1024])
SEEDS = by_profile(smoke=[0], cpu=[0, 1, 2], full=[0, 1, 2, 3, 4])
whole = statistics.mean(accuracy_in_subspace(None, seed) for seed in SEEDS)
small = [statistics.mean(accuracy_in_subspace(d, seed) for seed in SEEDS) for d in dimensions]

fig, ax = plt.subplots(figsize=(7, 3.6))
ax.semilogx(dimensions, small, "o-", color=BLUE, label="d random directions")
ax.axhline(whole, color=ORANGE, linestyle="--", label=f"all {D:,} directions: {whole:.3f}")
ax.axhline(0.9 * whole, color=ORANGE, linestyle=":", label="90 % of that")
ax.axhline(0.5, color=GREY, linestyle="-.", label="guessing")
ax.set(
    xlabel="directions in which the weights may move, d",
    ylabel="test accuracy, mean over seeds",
    title="How many directions does the task need?",
    ylim=(0.42, 0.78),
)
ax.legend(loc="lower right", ncols=2, fontsize=8)
plt.show()
enough = [d for d, accuracy in zip(dimensions, small, strict=True) if accuracy >= 0.9 * whole]
print(
    f"first d tried with 90 % of the accuracy: {enough[0] if enough else 'none'} of {D:,}; {len(test_labels)} test sentences, mean of {len(SEEDS)} seeds"
)

# %% [markdown]
# Random directions, chosen before anyone looked at the task! What is learned with a small share of them is worse than with all, but far
# from nothing, and it grows slowly with d: there is no sharp edge. Keep two things apart, though. Intrinsic dimension counts *numbers*; a
# low-rank change restricts the *shape* of the change of each matrix. The first makes the second plausible. It does not prove it.

# %% [markdown]
# ## The family, as equations
#
# Before the next evidence, let us put on paper what the methods of this course do with a low-rank change. $W$ is (out, in), $B$ is
# (out, r), $A$ is (r, in), and $s = \alpha / r$; a dot in a circle, $\odot$, multiplies entry by entry.
#
# | method | equation | trained |
# |---|---|---|
# | any of them, merged | $W' = W + \Delta W$, for LoRA $\Delta W = s\,BA$ | |
# | LoRA | $h = Wx + b + s\,B(Ax)$ | B, A |
# | rsLoRA | the same with $s = \alpha / \sqrt r$ | B, A |
# | LoRA-FA | the same as LoRA, with $A$ frozen: $\partial L / \partial B = s\, G^\top (xA^\top)$ for $G = \partial L/\partial h$ | B |
# | VeRA | $h = Wx + b + \lambda_b \odot B(\lambda_d \odot Ax)$, with random, frozen A and B | $\lambda_b$ (out), $\lambda_d$ (r) |
# | Delta-LoRA | $W_{t+1} = W_t + \lambda s\,(B_{t+1}A_{t+1} - B_tA_t)$ after each step, beside LoRA's own branch | B, A |
# | LoRA+ | LoRA, with learning rates $\eta_B = \text{ratio} \cdot \eta_A$ | B, A |
# | DoRA | $h = m \odot \dfrac{(W + sBA)\,x}{\lVert W + sBA \rVert_{\text{each row}}} + b$ | B, A, m (out) |
# | PiSSA | LoRA from $s\,BA$ = the best rank-r part of $W$, and $W - s\,BA$ in the base | B, A |
#
# An equation on a slide is a claim. Papers, blog posts and slides copy them from each other, and a factor is lost on the way, or a vector
# changes sides. So we do not trust this table either: **each row becomes a test**. Left, the layer of this course's package, as you
# will use it; right, the equation, typed out. The rules for such a test are few:
#
# - every number is random, since most wrong equations are right when something is zero or one;
# - no two sizes are equal, and the rank is not α, so that a swap or a missing factor shows;
# - float64, so that "equal" can mean twelve digits.

# %%
IN, OUT, RANK, ALPHA = 20, 12, 3, 7.5
seed_everything(0)
x = torch.randn(
    5, IN, dtype=torch.float64
)  # five inputs, one in each row: W x for all of them is x @ W.T


def random_layer(method: str):
    """A linear layer 20 -> 12, adapted by the package; every number in it random."""
    model = nn.Sequential(nn.Linear(IN, OUT)).double()
    inject(model, AdapterConfig(method=method, rank=RANK, alpha=ALPHA, target_modules=["0"]))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model[0]


def same(name: str, ours: torch.Tensor, equation: torch.Tensor) -> None:
    assert_close(ours, equation, rtol=1e-12, atol=1e-12)
    print(f"{name}: the code does what the equation says")


# %% [markdown]
# **LoRA**, its merged weight, and **rsLoRA**.

# %% tags=["nbval-check-output"]
layer = random_layer("lora")
W, b, A, B = layer.weight.clone(), layer.bias, layer.lora_A, layer.lora_B
s = ALPHA / RANK
same("LoRA", layer(x), x @ W.T + b + s * (x @ A.T) @ B.T)
layer.merge()
same("LoRA, merged", layer.weight, W + s * B @ A)

layer = random_layer("rslora")
W, b, A, B = layer.weight, layer.bias, layer.lora_A, layer.lora_B
same("rsLoRA", layer(x), x @ W.T + b + ALPHA / RANK**0.5 * (x @ A.T) @ B.T)

# %% [markdown]
# **LoRA-FA** has LoRA's forward pass; what makes it itself is the backward pass. A gets no gradient, and that of B is a product of two thin
# matrices, neither of which is $x$.

# %% tags=["nbval-check-output"]
layer = random_layer("lora_fa")
W, b, A, B = layer.weight, layer.bias, layer.lora_A, layer.lora_B
same("LoRA-FA", layer(x), x @ W.T + b + s * (x @ A.T) @ B.T)
G = torch.randn(5, OUT, dtype=torch.float64)
(layer(x) * G).sum().backward()
same("LoRA-FA, gradient of B", B.grad, s * G.T @ (x @ A.T))
assert not A.requires_grad and A.grad is None

# %% [markdown]
# **VeRA**: one vector acts on the r numbers between A and B, the other on the output.

# %% tags=["nbval-check-output"]
layer = random_layer("vera")
A, B = layer.slices()
lambda_d, lambda_b = layer.vera_lambda_d, layer.vera_lambda_b
same("VeRA", layer(x), x @ layer.weight.T + layer.bias + lambda_b * ((lambda_d * (x @ A.T)) @ B.T))
same("VeRA, merged", layer.delta_weight(), torch.diag(lambda_b) @ B @ torch.diag(lambda_d) @ A)

# %% [markdown]
# **Delta-LoRA** is an equation about *time*, so its test must train. Beside the package's layer we keep a weight $W_t$ of our own and
# move it by hand, as the equation says, after each of five optimizer steps.

# %% tags=["nbval-check-output"]
layer = random_layer("delta_lora")
W, b, A, B = layer.weight.clone(), layer.bias, layer.lora_A, layer.lora_B
lam, start = 0.5, (B @ A).detach()
optimizer = make_optimizer(layer, lr=0.1)
DeltaUpdate(layer, optimizer, lam=lam)
for _ in range(5):
    before = (B @ A).detach()
    optimizer.zero_grad()
    layer(x).square().sum().backward()
    optimizer.step()
    W = W + lam * s * (B @ A - before).detach()
    assert_close(layer(x), x @ W.T + b + s * (x @ A.T) @ B.T, rtol=1e-10, atol=1e-10)
same("Delta-LoRA after five steps", layer(x), x @ W.T + b + s * (x @ A.T) @ B.T)
same("Delta-LoRA, all steps at once", W, layer.weight + lam * s * ((B @ A).detach() - start))

# %% [markdown]
# Look at the last line. The weight after all steps needs no steps: in the sum every product cancels but the first and the last. Lesson
# 06 asks what that means for the method.
#
# **LoRA+** is an equation about step sizes. Adam's first step moves every entry by its learning rate, whatever the gradient, which makes
# the ratio easy to see.

# %% tags=["nbval-check-output"]
layer = random_layer("lora")
optimizer = make_optimizer(layer, lr=1e-3, method="lora_plus", ratio=16)
A, B = layer.lora_A.clone(), layer.lora_B.clone()
layer(x).square().sum().backward()
optimizer.step()
moved_A, moved_B = (layer.lora_A - A).abs(), (layer.lora_B - B).abs()
assert_close(moved_A, torch.full_like(A, 1e-3), rtol=1e-4, atol=0)
assert_close(moved_B, torch.full_like(B, 16e-3), rtol=1e-4, atol=0)
print(f"LoRA+: B moves {moved_B.mean() / moved_A.mean():.2f} times as far as A")

# %% [markdown]
# **DoRA** divides each row of the changed weight by its length. **PiSSA** starts with what *you* wrote in 01.1.

# %% tags=["nbval-check-output"]
layer = random_layer("dora")
V = layer.weight + s * layer.lora_B @ layer.lora_A
m = layer.lora_magnitude_vector
same("DoRA", layer(x), x @ (m[:, None] * V / V.norm(dim=1, keepdim=True)).T + layer.bias)

model = nn.Sequential(nn.Linear(IN, OUT)).double()
W = model[0].weight.detach().clone()
inject(model, AdapterConfig(method="pissa", rank=RANK, alpha=ALPHA, target_modules=["0"]))
same("PiSSA, the branch", s * model[0].lora_B @ model[0].lora_A, truncate(W, RANK))
same("PiSSA, the base", model[0].weight, W - truncate(W, RANK))

# %% [markdown]
# ## Bug lab · Three formulas from a slide
#
# Somebody writes the equations down for a talk, and shows that they run. All three have a mistake.


# %%
TITLE = "LoRA: $h = Wx + \frac{\alpha}{r} BAx$"


def lora_by_hand(x, W, A, B):
    return x @ (W + B @ A).T


def vera_by_hand(x, W, A, B, lambda_d, lambda_b):
    return x @ (W + (B * lambda_d) @ (A * lambda_b)).T


# %% [markdown]
# Their test: a square layer of width 8, initialised as the papers say. A random, B zero for LoRA; A and B random, $\lambda_b = 0$ and
# $\lambda_d = 0.1$ for VeRA.
#
# **Predict.** What will the title look like on the slide? Does each function pass the test against our layer? And in a test by the rules above?
#
# **Run.**

# %% tags=["nbval-check-output"]
print("the title, as Python sees it:", repr(TITLE))


def verdict(formula, method: str, n_in: int, n_out: int, randomise: bool) -> str:
    """Whether a formula says what the package's layer does."""
    seed_everything(0)
    model = nn.Sequential(nn.Linear(n_in, n_out, bias=False))
    layer = inject(model, AdapterConfig(method=method, rank=3, alpha=7, target_modules=["0"]))[0]
    if randomise:
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    x = torch.randn(5, n_in)
    if method == "lora":
        numbers = layer.lora_A, layer.lora_B
    else:
        numbers = *layer.slices(), layer.vera_lambda_d, layer.vera_lambda_b
    try:
        theirs = formula(x, layer.weight, *numbers)
    except RuntimeError:
        return "does not even run"
    return "equal" if torch.allclose(theirs, layer(x), atol=1e-5) else "different"


for method, formula in (("lora", lora_by_hand), ("vera", vera_by_hand)):
    for what, n_in, n_out, randomise in [
        ("square, at the start", 8, 8, False),
        ("square, random", 8, 8, True),
        ("20 -> 12, random", 20, 12, True),
    ]:
        print(f"{method}, {what:20s}: {verdict(formula, method, n_in, n_out, randomise)}")

# %% [markdown]
# **Explain.**
#
# 1. *The title.* In an ordinary string, Python reads a backslash and some letters as one character: `\f` is a form feed and `\a` rings a bell.
#    The formula arrives without its fraction and its α, and Python does not complain, because both are legal.
# 2. *LoRA.* The factor α/r is missing. At the start B is zero, and any factor times zero is right.
# 3. *VeRA.* `A * lambda_b` multiplies the *columns* of A, so $\lambda_b$ weighs the inputs. It belongs on the other side of B, where it
#    weighs the outputs. In a square layer both have the same length and nothing fails; at the start $\lambda_b$ is zero and both are zero.
#
# **Fix.** Write `r"..."` for every string with a backslash in it; `s * B @ A`; and `lambda_b[:, None] * (B * lambda_d) @ A`. And fix the *test*:
# random numbers, unequal sizes. It costs nothing, and it would have caught both.

# %% tags=["nbval-check-output"]
TITLE = r"LoRA: $h = Wx + \frac{\alpha}{r} BAx$"


def lora_fixed(x, W, A, B, scaling=7 / 3):
    return x @ (W + scaling * B @ A).T


def vera_fixed(x, W, A, B, lambda_d, lambda_b):
    return x @ (W + lambda_b[:, None] * (B * lambda_d) @ A).T


print("the title, as Python sees it:", repr(TITLE))
print("lora, 20 -> 12, random:", verdict(lora_fixed, "lora", 20, 12, True))
print("vera, 20 -> 12, random:", verdict(vera_fixed, "vera", 20, 12, True))

# %% [markdown]
# ## Second evidence: a real weight change
#
# Enough of random matrices. We fine-tune **every** parameter of a pretrained encoder on film reviews, with nothing low-rank in sight, and then
# look at what happened to its weights: $\Delta W = W_{\text{after}} - W_{\text{before}}$. If LoRA's bet is good, that change should be
# nearly of low rank, although nobody asked it to be.

# %%
seed_everything(0)
model, tokenizer = load_encoder("packaged", base_dropout=0.0)
model.to(device)
before = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
splits = load_reviews("rotten_tomatoes")
splits["train"] = splits["train"].select(range(SENTENCES))
splits["validation"] = splits["validation"].select(range(64))
splits["test"] = splits["test"].select(range(TESTED))
history, full_result = train_sentiment(
    model,
    tokenizer,
    splits,
    TrainingConfig(epochs=1, batch_size=16, learning_rate=1e-4, seed=0),
    name="full fine-tuning",
)
print(history)
print(full_result)
after = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

# %%
names = [
    f"{name}.weight"
    for name, module in model.base_model.named_modules(prefix=model.base_model_prefix)
    if isinstance(module, nn.Linear)
]
deltas = {name: after[name] - before[name] for name in names}
seed_everything(0)
spectra = {
    name: {
        "change": torch.linalg.svdvals(deltas[name]),
        "weight": torch.linalg.svdvals(before[name]),
        "random": torch.linalg.svdvals(torch.randn_like(before[name])),
    }
    for name in names
}
kinds = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
print(
    f"{'layers':>24s} {'|change| / |W|':>15s} {'rank for 50 %':>14s} {'for 90 %':>9s} {'random: 50 %':>13s} {'90 %':>5s}"
)
for kind in kinds:
    mine = [
        n
        for n in names
        if "layer" in n
        and n.endswith(f"{kind}.weight")
        and (kind != "output.dense" or "attention" not in n)
    ]
    size = statistics.median((deltas[n].norm() / before[n].norm()).item() for n in mine)
    ranks = [
        statistics.median(rank_for_energy(spectra[n][which], share) for n in mine)
        for which in ("change", "random")
        for share in (0.5, 0.9)
    ]
    print(
        f"{kind:>24s} {size:14.2%}  {ranks[0]:13.0f} {ranks[1]:9.0f} {ranks[2]:13.0f} {ranks[3]:5.0f}"
    )
print(
    f"\nmedians over {len(mine)} layers; the largest possible rank is {min(before[names[0]].shape)}"
)

# %%
shown = next(n for n in names if n.endswith(f"layer.{len(mine) // 2}.attention.self.value.weight"))
looks = {
    "change": ("weight change", BLUE, "-"),
    "weight": ("pretrained W", ORANGE, "--"),
    "random": ("random matrix", GREY, ":"),
}
fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.8))
for which, (label, color, style) in looks.items():
    S = spectra[shown][which]
    axes[0].loglog(range(1, len(S) + 1), S / S[0], color=color, linestyle=style, label=label)
    energies = torch.stack(
        [s[which].square().cumsum(0) / s[which].square().sum() for s in spectra.values()]
    )
    axes[1].semilogx(
        range(1, len(S) + 1), energies.median(0).values, color=color, linestyle=style, label=label
    )
    axes[1].fill_between(
        range(1, len(S) + 1),
        energies.quantile(0.1, 0),
        energies.quantile(0.9, 0),
        color=color,
        alpha=0.15,
    )
axes[0].set(
    xlabel="i",
    ylabel=r"singular value $\sigma_i / \sigma_1$",
    ylim=(1e-3, 1.5),
    title="One value projection",
)
axes[1].set(
    xlabel="rank r",
    ylabel="share of the energy in the first r",
    title="All linear layers: median, 10 % to 90 %",
)
axes[0].legend()
fig.tight_layout()
plt.show()

# %% [markdown]
# Read both pictures before you read on. Is that change of low rank?
#
# It is small, to begin with: the first column of the table says how small, compared with $W$. And it is far from random: a few directions stand
# out, in the output projections above all, and they hold many times what a random matrix has in as many. But it is *not* of low rank in the strict
# sense. Holding 90 % of the energy takes dozens of directions, in some layers more than a hundred, and the curve has a long tail. (A likely reason for the
# tail: Adam moves every entry of a matrix by a similar amount in a step, however small its gradient is, and so writes noise of full rank.)
#
# **Try it.** The same change, rank by rank, and beside it a layer of another kind and a random matrix. Move *Rank* from 1 upwards. How far must you go until
# "left over" looks like noise, and where is that for the random one? Below, what each method of this course would train at that rank.

# %%
from lora_course.teaching.widgets import rank_explorer

dense = shown.replace("self.value", "output.dense")
changes = {
    "change of a value projection": deltas[shown],
    "change of an output projection": deltas[dense],
    "random matrix": torch.randn_like(deltas[shown]),
}
rank_explorer.static(changes, rank=8)

# %%
rank_explorer.explore(changes)

# %% [markdown]
# Energy, however, treats all directions alike, and the task does not. The question that matters is another one: *how much rank does the
# accuracy need?*

# %% [markdown]
# ## Exercise 01.4 · From a change to a pair B, A
#
# ★★★ · 12 minutes
#
# To answer it with LoRA's own means, we turn a change into an adapter: find B (out, r) and A (r, in) so that the layer's branch, $s\,BA$, is the
# best rank-r approximation of a given $\Delta W$. Many pairs do that: double B, halve A, and the product stays. Write
# `balanced_factors(delta, rank, scaling)` that returns the pair B, A that share the load: $B^\top B = A A^\top$.
#
# <details><summary>Nudge</summary>
#
# You know the best approximation as three factors. What must become of the middle one, so that two are left, equally large?
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# $\sigma = \sqrt\sigma \cdot \sqrt\sigma$. And the layer multiplies by s later: divide by it now, once.
#
# </details>
# <details><summary>Outline</summary>
#
# `root = (S[:rank] / scaling).sqrt()`; B is U's columns times root, A is Vh's rows times root.
#
# </details>


# %% exercise="01.4"
def balanced_factors(
    delta: torch.Tensor, rank: int, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """B (out, rank) and A (rank, in) with scaling * B @ A the best approximation of delta, and B^T B = A A^T."""
    ### BEGIN SOLUTION
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    root = (S[:rank] / scaling).sqrt()  # (r,)
    return U[:, :rank] * root, root[:, None] * Vh[:rank]
    ### END SOLUTION


# %% check="01.4"
balanced_factors = check("01.4", balanced_factors)

# %% [markdown]
# ## Third evidence: cut the change, measure the model
#
# Everything goes back to the pretrained model, except the trained head and the changes of the linear layers, and those are cut to rank r. At rank 0 no
# change is left: that is the honest zero line, a fine-tuned head on a pretrained body.

# %%
tokenized = tokenize_reviews(splits["test"], tokenizer)


def accuracy_with(change) -> float:
    """Test accuracy of the pretrained body with W + change(delta W) in each linear layer, and the trained head."""
    state = {name: (after if name.startswith("classifier") else before)[name] for name in before}
    state |= {name: before[name] + change(delta) for name, delta in deltas.items()}
    model.load_state_dict(state)
    return evaluate_sentiment(model, tokenizer, tokenized).accuracy


whole_change = accuracy_with(lambda delta: delta)
ranks = by_profile(
    smoke=[0, 2, 8], cpu=[0, 1, 2, 4, 8, 16, 32], full=[0, 1, 2, 4, 8, 16, 32, 64, 128]
)
accuracies = [accuracy_with(lambda delta, r=r: truncate(delta, r)) for r in ranks]
without = accuracy_with(lambda delta: delta - truncate(delta, 8))
energy = [
    statistics.median(
        (s["change"][:r].square().sum() / s["change"].square().sum()).item()
        for s in spectra.values()
    )
    for r in ranks
]

error = (full_result.accuracy * (1 - full_result.accuracy) / full_result.n) ** 0.5
print(f"everything fine-tuned          accuracy {full_result.accuracy:.3f}")
print(f"changes of linear layers only  accuracy {whole_change:.3f}")
for r, accuracy, share in zip(ranks, accuracies, energy, strict=True):
    print(
        f"  cut to rank {r:3d}              accuracy {accuracy:.3f}   holding {share:5.1%} of the energy (median)"
    )
print(f"  all but the first 8          accuracy {without:.3f}")
print(f"{full_result.n} test sentences, standard error {error:.3f}; {full_result.device}")

# %%
fig, ax = plt.subplots(figsize=(7.5, 3.8))
places = range(len(ranks))
ax.errorbar(
    places,
    accuracies,
    yerr=error,
    fmt="o-",
    color=BLUE,
    capsize=3,
    label="accuracy, change cut to rank r",
)
ax.plot(places, energy, "s:", color=GREY, label="share of the change's energy")
ax.axhline(
    full_result.accuracy, color=ORANGE, linestyle="--", label="accuracy of the full fine-tune"
)
ax.set_xticks(places, [str(r) for r in ranks])
ax.set(
    xlabel="rank r of each weight change",
    ylabel="accuracy, or share of the energy",
    ylim=(0, 1),
    title="What is left of a change, and what it still does",
)
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# And now as a real adapter, with *your* B and A: a rank-8 LoRA that nobody trained, read off a full fine-tune.

# %%
model.load_state_dict(before | {n: t for n, t in after.items() if n.startswith("classifier")})
config = AdapterConfig(rank=8, alpha=16, target_modules="all-linear", trainable=["classifier"])
inject(model, config)
with torch.no_grad():
    for name, adapter in adapters(model).items():
        B, A = balanced_factors(deltas[f"{name}.weight"], config.rank, config.scaling)
        adapter.lora_B.copy_(B)
        adapter.lora_A.copy_(A)
adapted = evaluate_sentiment(model, tokenizer, tokenized)
report = parameter_report(model)
print(adapted)
print(
    f"{report.trainable:,} numbers, {report.percent:.2f} % of the model; full fine-tuning changed all {history.run.total_parameters:,}"
)
assert (
    abs(adapted.accuracy - accuracies[ranks.index(8)]) <= 2 / adapted.n
)  # rounding may tip a sentence

# %% [markdown]
# ## The verdict
#
# Put the numbers side by side, yours above, and hold on to what they say and what they do not.
#
# - **The change is not of low rank, but what the task needs of it is.** In our run, rank 4 holds about half of the energy and, as far as the test
#   sentences can tell, all of the accuracy; rank 2 comes close. At rank 0 the same head on the same body is near guessing, so it is these few
#   directions that do it, not the head. Rank 1, though, is no better than rank 0: there is a least that it takes.
# - **The rest is not quite nothing.** Look at "all but the first 8", which is what a rank-8 adapter would throw away. It still holds a third of the
#   energy, and it does a little better than rank 0 by itself, but nobody would miss it: with the first 8 in place it adds nothing that we can measure.
# - **This is one model, one easy task, one seed, 75 steps.** Two classes of one-sentence reviews need few directions. On harder tasks, with
#   more data and longer training, full fine-tuning can use a higher rank, and small ranks fall behind. The bet is a good one; it is not a law.
# - **Truncating is not training.** That a good rank-8 change *exists* does not mean that gradient descent on B and A will find it. Lesson 02 builds
#   the layer that tries; lesson 04 compares both on the same budget.
#
# ## Self-test
#
# <details><summary>1. A change of rank 8 holds 60 % of the energy of a weight change. Has 40 % of what was learned been lost?</summary>
#
# Nobody knows until it is measured. Energy weighs all directions by their size; the task weighs them by their effect on the answer. Above, about half
# of the energy carried all of the accuracy that we could measure.
#
# </details>
# <details><summary>2. Each layer's change has rank 8. Is the change of the model's output, as a function of its input, of rank 8 as well?</summary>
#
# No. "Rank" speaks of one matrix. The layers are chained through nonlinear steps, and the function that comes out can change in ways that no single
# low-rank matrix describes.
#
# </details>
# <details><summary>3. Your new layer agrees with the reference in a test with B = 0. What has the test shown?</summary>
#
# That the base path is right. Everything the branch does was multiplied by zero: its scaling, its order, its dropout, even its transposes.
#
# </details>
#
# ## Reading
#
# - Aghajanyan et al. 2020, [Intrinsic Dimensionality Explains the Effectiveness of Language Model Fine-Tuning](https://arxiv.org/abs/2012.13255):
#   section 3 defines what we measured in small.
# - Li et al. 2018, [Measuring the Intrinsic Dimension of Objective Landscapes](https://arxiv.org/abs/1804.08838): where random subspaces come from.
# - Hu et al. 2021, [LoRA](https://arxiv.org/abs/2106.09685): section 7 asks our questions of GPT-3, and compares $\Delta W$ with $W$.
# - Houlsby et al. 2019, [Parameter-Efficient Transfer Learning for NLP](https://arxiv.org/abs/1902.00751): the problem, before low rank was
#   the answer.
# - Lesson 02 builds the layer.
