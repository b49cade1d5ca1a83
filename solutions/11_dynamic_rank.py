# %% [markdown]
# # 11 · Dynamic rank
#
# **The question.** Which rank does a layer need, and must you decide before you train?
#
# **What you will be able to do**
# - say what is wrong with an adapter that switches ranks on and off by looking at the loss;
# - train one adapter that works at every rank, as DyLoRA does;
# - score ranks by what they are worth and spend a budget on the best, as AdaLoRA does, and know what that does *not* save;
# - grow a trained adapter without a jump and shrink it by importance, its optimizer included;
# - judge whether any of it beats simply choosing a rank.
#
# **Time and memory.** About 110 minutes, most of them yours: the cells take about a minute on two CPU cores, and about
# 1.5 GiB of memory.

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import nn

from lora_course import AdapterConfig, adapters, inject, make_optimizer, save_adapter
from lora_course.adapters.dylora import DyLoRA, set_rank
from lora_course.adapters.rank_allocator import RankAllocator
from lora_course.adapters.rank_controller import RankController
from lora_course.adapters.resize import resize_rank
from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.teaching.exercises import check
from lora_course.teaching.profiles import by_profile

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
device = choose_device()
print(describe_device(device))

# %% [markdown]
# ## Bug lab · The layer that follows the loss
#
# The idea is tempting: give the layer room for 16 ranks, use a few, and let the loss say when it needs more or fewer. Here is such a layer. It runs,
# and it is wrong in four ways.


# %%
class SwitchingLayer(nn.Module):
    """A branch that turns ranks on and off by the loss. Four things are wrong with it."""

    def __init__(self, in_features, out_features, rank=4, largest=16):
        super().__init__()
        self.rank, self.largest = rank, largest
        self.A = nn.Parameter(torch.zeros(largest, in_features))
        self.B = nn.Parameter(torch.zeros(out_features, largest))

    def forward(self, x):
        return x @ self.A[: self.rank].T @ self.B[:, : self.rank].T

    def follow(self, loss):
        if loss < 0.1:
            self.rank = max(2, self.rank - 1)
        elif loss > 0.5:
            self.rank = min(self.largest, self.rank + 2)


# %% [markdown]
# **Predict.** (1) Which of A and B moves in the first step? For the others, suppose that is mended. (2) A trained layer of rank 8 gives up its *last* rank. Is that the one it needs
# least? (3) It goes from 8 down to 4, trains on, and comes back to 8. What happens to its output in that moment? (4) One task has a floor of about 0.7 under its loss, because its
# targets are noisy. Another starts at 0.05, because its targets are small. Where do their ranks end?
#
# **Run.**


# %%
def task(rank, size=1.0, noise=0.0):
    """Inputs (256, 24) and targets (256, 20) that a change of this rank explains, but for the noise."""
    x = torch.randn(256, 24)
    change = torch.randn(20, rank) @ torch.randn(rank, 24) / math.sqrt(24 * rank)
    return x, size * x @ change.T + noise * torch.randn(256, 20)


def steps(layer, x, target, number, follow=False):
    """Train with AdamW; returns the last loss."""
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(number):
        loss = (layer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if follow:
            layer.follow(loss.item())
    return loss.item()


def mended(rank):
    """The same layer, with an A that is not zero."""
    layer = SwitchingLayer(24, 20, rank)
    nn.init.kaiming_uniform_(layer.A, a=math.sqrt(5))
    return layer


seed_everything(0)
x, target = task(8)
layer = SwitchingLayer(24, 20)
(layer(x) - target).square().mean().backward()
print(
    f"(1) after the first backward: largest gradient of A {layer.A.grad.abs().max():g}, of B {layer.B.grad.abs().max():g}"
)

layer = mended(8)
steps(layer, x, target, 300)
with torch.no_grad():
    whole = layer.B[:, :8] @ layer.A[:8]
    lost_last = (layer.B[:, 7:8] @ layer.A[7:8]).norm() / whole.norm()
    lost_least = torch.linalg.svdvals(whole)[7] / whole.norm()
print(
    f"(2) share of the change lost with the last rank: {lost_last:.2f}; with the least important one: {lost_least:.2f}"
)

with torch.no_grad():
    layer.rank = 4
steps(layer, x, target, 100)
with torch.no_grad():
    before = layer(x)
    layer.rank = 8
    jump = (layer(x) - before).norm() / before.norm()
print(f"(3) coming back to rank 8, the output jumps by {jump:.0%} of its size")

for name, settings in {"noisy targets": dict(noise=0.84), "small targets": dict(size=0.22)}.items():
    seed_everything(1)
    x_task, target_task = task(4, **settings)
    layer = mended(4)
    first = (layer(x_task) - target_task).square().mean().item()
    last = steps(layer, x_task, target_task, 40, follow=True)
    print(
        f"(4) {name}: loss {first:.3f} at the start, {last:.3f} after 40 steps, rank 4 -> {layer.rank}"
    )

# %% [markdown]
# **Explain.**
#
# 1. With A and B both zero, each one's gradient is multiplied by the other. Nothing ever moves.
# 2. The order of the ranks means nothing: gradient descent spreads the change over all of them. The last is as good as any, and much better than the
#    direction that matters least, which is usually not one of the ranks at all but a mixture.
# 3. The ranks that were switched off kept their old values, while the others learned to do without them. Switched on again, they say everything twice.
# 4. A loss has no absolute scale. 0.7 may be perfect and 0.05 may be a layer that has learned nothing.
#
# And there is a fifth: A and B keep their full size whatever `rank` says, so nothing is saved, neither memory nor optimizer state.
#
# **Fix.** Three different ones, in fact. Train so that the order *does* mean something (DyLoRA). Measure what each rank is worth (AdaLoRA). Or really grow and shrink, with
# mathematics instead of a slice. We take them in turn.

# %% [markdown]
# ## One adapter, every rank: DyLoRA
#
# Valipour et al. (2022) make the order mean something. In each training step, each layer draws a rank b between 1 and r and uses only the first b rows of A and columns of B:
#
# $$h = Wx + \frac{\alpha}{b}\, B_{:,:b}\, A_{:b}\, x$$
#
# The first rank is always in use, the last one only once in r steps, and none may rely on those behind it. After training you cut wherever you like.
#
# ## Exercise 11.1 · One adapter, every rank
#
# ★ · 10 minutes
#
# Write `nested_branch(x, A, B, alpha, rank)`: the branch (without Wx) at this rank, for x of shape (..., in).
#
# <details><summary>Nudge</summary>
#
# Rows of A, columns of B: two slices in different dimensions.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# It should equal a LoRA of rank b with the same α. What does such a LoRA divide by?
#
# </details>
# <details><summary>Outline</summary>
#
# (x A[:b]ᵀ) B[:, :b]ᵀ, times alpha / b.
#
# </details>


# %% exercise="11.1"
def nested_branch(
    x: torch.Tensor, A: torch.Tensor, B: torch.Tensor, alpha: float, rank: int
) -> torch.Tensor:
    """x (..., in), A (r, in), B (out, r), rank from 1 to r; returns (..., out)."""
    ### BEGIN SOLUTION
    low = x @ A[:rank].T  # (..., rank)
    return alpha / rank * (low @ B[:, :rank].T)
    ### END SOLUTION


# %% check="11.1"
nested_branch = check("11.1", nested_branch)

# %% [markdown]
# ## What is a rank worth? AdaLoRA
#
# Zhang et al. (2023) ask another question: not how many ranks, but *where*. Some layers of a model need many, others hardly any. They write the change as $BEA$ with one number in the
# diagonal E for each rank, like a singular value, and switch a rank off by setting its number to 0. A and B are kept near orthogonal by a penalty, so that each rank says something of its own.
#
# To know what a number $w$ is worth, take $|w \cdot g|$, with g its gradient: about how much the loss would change if w were 0. One batch is a noisy judge, so two averages
# follow it over the steps (β₁ and β₂ are the shares that stay):
#
# $$I = |w\,g| \qquad \bar I \leftarrow \beta_1 \bar I + (1-\beta_1)\, I \qquad \bar U \leftarrow \beta_2 \bar U + (1-\beta_2)\, |I - \bar I| \qquad \text{score} = \bar I\, \bar U$$
#
# The *spread* U says how much the importance still fluctuates. Multiplying by it keeps numbers about which the jury is still out. A rank is worth the score of
# its number in E, plus the mean score of its row of A, plus that of its column of B.
#
# ## Exercise 11.2 · What a rank is worth
#
# ★★ · 15 minutes
#
# Write `update_importance(weight, gradient, average, spread, beta1, beta2)` that returns the new average, the new spread and the score, all of the same shape. The
# spread compares with the *new* average. Leave what you are given as it is.
#
# <details><summary>Nudge</summary>
#
# Both lines are the same kind of running average; only what they follow differs.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# Two absolute values: one of the product, one of the difference.
#
# </details>
# <details><summary>Outline</summary>
#
# now = |weight · gradient|; average = β₁ average + (1 − β₁) now; spread = β₂ spread + (1 − β₂) |now − average|; score = average · spread.
#
# </details>


# %% exercise="11.2"
def update_importance(
    weight: torch.Tensor,
    gradient: torch.Tensor,
    average: torch.Tensor,
    spread: torch.Tensor,
    beta1: float,
    beta2: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One step of AdaLoRA's importance: the new average and spread, and the score."""
    ### BEGIN SOLUTION
    now = (weight * gradient).abs()
    average = beta1 * average + (1 - beta1) * now
    spread = beta2 * spread + (1 - beta2) * (now - average).abs()
    return average, spread, average * spread
    ### END SOLUTION


# %% check="11.2"
update_importance = check("11.2", update_importance)

# %% [markdown]
# ## Exercise 11.3 · A budget that falls like a cubic
#
# ★★ · 10 minutes
#
# At the start the model has `first` ranks in all its layers together; in the end it may have `target`. In between, AdaLoRA lets the budget fall along a cubic: steeply at once, when most ranks are
# obviously useless, and ever more gently while the choice becomes hard. Write `cubic_budget(step, first, target, warmup, last)`: the number of ranks at this step. Up to and including
# `warmup` it is `first`, from step `last` on it is `target`, and in between, **rounded down**,
#
# $$(\text{first} - \text{target})\left(1 - \frac{\text{step} - \text{warmup}}{\text{last} - \text{warmup}}\right)^3 + \text{target}$$
#
# <details><summary>Nudge</summary>
#
# Three cases, and the bracket is what is *left* of the way: 1 after the warm-up, 0 at `last`.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# Both differences are measured from the end of the warm-up.
#
# </details>
# <details><summary>Outline</summary>
#
# if step <= warmup: first. if step >= last: target. Otherwise the formula inside `int(...)`.
#
# </details>


# %% exercise="11.3"
def cubic_budget(step: int, first: int, target: int, warmup: int, last: int) -> int:
    """Ranks that the whole model may have at this step."""
    ### BEGIN SOLUTION
    if step <= warmup:
        return first
    if step >= last:
        return target
    left = 1 - (step - warmup) / (last - warmup)
    return int((first - target) * left**3 + target)
    ### END SOLUTION


# %% check="11.3"
cubic_budget = check("11.3", cubic_budget)

# %% [markdown]
# Your score and your budget at work, on one small layer. Its task needs a change of rank 2, and it starts with 6. (No penalty here, and only E is scored, to keep it short.)

# %%
seed_everything(0)
x, target = task(2)
A = (torch.randn(6, 24) * 0.3).requires_grad_()
E = torch.zeros(6, 1, requires_grad=True)
B = (torch.randn(20, 6) * 0.3).requires_grad_()
optimizer = torch.optim.AdamW([A, E, B], lr=1e-2, weight_decay=0.0)
average, spread = torch.zeros_like(E), torch.zeros_like(E)
history, budgets = [], []
for step in range(400):
    loss = (x @ (A * E).T @ B.T - target).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        average, spread, score = update_importance(E, E.grad, average, spread, 0.85, 0.85)
        budgets.append(cubic_budget(step, 6, 2, 50, 300))
        keep = score.flatten().argsort(descending=True)[: budgets[-1]]
        mask = torch.zeros(6, 1, dtype=torch.bool)
        mask[keep] = True
        E.masked_fill_(~mask, 0.0)
    history.append(E.detach().abs().flatten().clone())

fig, axes = plt.subplots(2, 1, figsize=(7, 4.6), sharex=True, height_ratios=[2, 1])
looks = zip(
    [BLUE, ORANGE, GREEN, PURPLE, "#56B4E9", "#E69F00"],
    ["-", "--", "-.", ":", "-", "--"],
    strict=True,
)
for number, (color, style) in enumerate(looks):
    axes[0].plot(
        torch.stack(history)[:, number], color=color, linestyle=style, label=f"rank {number}"
    )
axes[0].set(
    ylabel="|entry of E|",
    title="Six ranks compete for a budget that falls to two",
    ylim=(-0.02, 0.85),
)
axes[0].legend(ncols=3, loc="upper right")
axes[1].step(range(400), budgets, color="black", where="post")
axes[1].set(xlabel="optimizer step", ylabel="budget (ranks)", ylim=(0, 6.5))
fig.tight_layout()
plt.show()
print(f"loss after 400 steps {loss.item():.2e}, with ranks {keep.sort().values.tolist()} left")

# %% [markdown]
# Two things to know before you use AdaLoRA.
#
# **It masks, it does not shrink.** A switched-off rank keeps its row of A and its column of B, their gradients and their optimizer state: it may come back. In training you pay for the *first* rank
# until the end, and until the last rank is chosen for two averages of every number, as many as Adam keeps. Only the saved file is smaller.
#
# **Somebody must call it.** In PEFT the ranks change in `update_and_allocate(step)`, and it is *your* loop that must call it after each optimizer step. A loop that does not, `transformers.Trainer` among
# them, trains without an error at the full first rank, with a penalty on top. Here are both loops, on a toy BERT:

# %%
import warnings

from peft import AdaLoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

warnings.filterwarnings(
    "ignore", ".*is_gradient_checkpointing"
)  # PEFT reads an old name of transformers
tiny = BertConfig(
    vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
)
for called in (False, True):
    seed_everything(0)
    peft_config = AdaLoraConfig(
        task_type="SEQ_CLS",
        init_r=6,
        target_r=2,
        tinit=3,
        tfinal=5,
        deltaT=1,
        total_step=20,
        lora_alpha=16,
        target_modules=["query", "value"],
    )
    toy = get_peft_model(BertForSequenceClassification(tiny), peft_config)
    optimizer = torch.optim.AdamW([p for p in toy.parameters() if p.requires_grad], lr=1e-2)
    ids, labels = torch.randint(50, (16, 7)), torch.randint(2, (16,))
    for step in range(20):
        toy(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        if called:
            toy.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    factors = [p for name, p in toy.named_parameters() if "lora_E" in name]
    ranks = [int((E != 0).sum()) for E in factors]
    size = sum(
        p.numel() for name, p in toy.named_parameters() if "lora_" in name and p.requires_grad
    )
    print(
        f"update_and_allocate {'called    ' if called else 'not called'}: ranks {ranks}, {size:,} adapter parameters in memory"
    )

# %% [markdown]
# In this course's package `RankAllocator` hangs itself onto `optimizer.step()`, so that no loop can forget it.

# %% [markdown]
# ## Really growing and shrinking
#
# Now the idea from the bug lab, done right: A and B change their *shape*.
#
# ## Exercise 11.4 · Grow without a jump
#
# ★★ · 15 minutes
#
# Write `grow(A, B, alpha, rank)`: A and B with more ranks, and the alpha that goes with them. The layer must compute what it computed before, to rounding, and the new ranks begin like those of a
# new LoRA layer (02.2): rows of A random and as large as there, columns of B zero. Old ranks first, new ones after them.
#
# <details><summary>Nudge</summary>
#
# How does a new LoRA layer begin, so that its change is zero and it can still learn? The new ranks are a new layer.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# New rows of A: `nn.init.kaiming_uniform_(rows, a=math.sqrt(5))`. New columns of B: zeros. And the layer multiplies by alpha / rank, in which the rank has just
# changed.
#
# </details>
# <details><summary>Outline</summary>
#
# Concatenate A with the new rows, B with the new columns (`dim=1`). alpha · rank / old rank keeps the scale.
#
# </details>


# %% exercise="11.4"
def grow(
    A: torch.Tensor, B: torch.Tensor, alpha: float, rank: int
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A (r, in), B (out, r), alpha -> A (rank, in), B (out, rank), alpha of the same layer with more ranks."""
    ### BEGIN SOLUTION
    old = len(A)
    rows = torch.empty(rank - old, A.shape[1], dtype=A.dtype)
    nn.init.kaiming_uniform_(rows, a=math.sqrt(5))
    columns = torch.zeros(B.shape[0], rank - old, dtype=B.dtype)
    return torch.cat([A, rows]), torch.cat([B, columns], dim=1), alpha * rank / old
    ### END SOLUTION


# %% check="11.4"
grow = check("11.4", grow)

# %% [markdown]
# ## Exercise 11.5 · Shrink by importance
#
# ★★★ · 25 minutes
#
# Shrinking to k ranks must lose something. It loses least if the k largest singular values of $BA$ stay (Eckart and Young, lesson 01). But BA is (out, in), the very matrix that LoRA never
# builds. It need not be built here either. With thin QR decompositions
#
# $$B = Q_B R_B, \qquad A^\top = Q_A R_A \qquad\Rightarrow\qquad BA = Q_B\,(R_B R_A^\top)\,Q_A^\top$$
#
# the bracket is only r × r, and since the columns of both Q are orthonormal, its singular values *are* those of BA.
#
# Write `shrink(A, B, rank)` that returns the new A (rank, in) and B (out, rank). How you share the singular values between them is up to you. (The check watches what you build.)
#
# <details><summary>Nudge</summary>
#
# `torch.linalg.qr(B)` gives Q (out, r) and R (r, r). Then an ordinary SVD of a tiny matrix.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# If $R_B R_A^\top = U S V^\top$, then $BA = (Q_B U)\, S\, (Q_A V)^\top$: that is the SVD of BA.
#
# </details>
# <details><summary>Outline</summary>
#
# QR of B and of A.T; U, S, Vh = svd(R_B @ R_A.T); new B = Q_B @ (U[:, :k] · √S[:k]); new A = (√S[:k] · Vh[:k]) @ Q_A.T, with the roots broadcast along the right
# dimension.
#
# </details>


# %% exercise="11.5"
def shrink(A: torch.Tensor, B: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A (r, in), B (out, r) -> A (rank, in), B (out, rank) with B A as near to the old one as that rank allows."""
    ### BEGIN SOLUTION
    Q_B, R_B = torch.linalg.qr(B)  # (out, r), (r, r)
    Q_A, R_A = torch.linalg.qr(A.T)  # (in, r), (r, r)
    U, S, Vh = torch.linalg.svd(R_B @ R_A.T)  # all r x r
    root = S[:rank].sqrt()
    return (root.unsqueeze(1) * Vh[:rank]) @ Q_A.T, Q_B @ (U[:, :rank] * root)
    ### END SOLUTION


# %% check="11.5"
shrink = check("11.5", shrink)

# %% [markdown]
# Back to questions 2 and 3 of the bug lab, with your functions: the trained layer gives up half of its ranks, and gets them back.

# %%
seed_everything(0)
x, target = task(8)
layer = mended(8)
steps(layer, x, target, 300)
with torch.no_grad():
    A, B = layer.A[:8], layer.B[:, :8]
    whole = B @ A
    small_A, small_B = shrink(A, B, 4)
    cut = (whole - B[:, :4] @ A[:4]).norm() / whole.norm()
    best = (whole - small_B @ small_A).norm() / whole.norm()
    big_A, big_B, _ = grow(small_A, small_B, 4.0, 8)
    jump = (big_B @ big_A - small_B @ small_A).norm() / whole.norm()
print(
    f"8 -> 4 ranks loses {cut:.0%} of the change if the last four go, {best:.0%} by SVD; 4 -> 8 jumps by {jump:.0e}"
)

# %% [markdown]
# ## The optimizer has a copy of everything
#
# A new A is a new tensor. The optimizer still holds the old one, with its averages. It gets no gradient any more, and of the new one the optimizer knows nothing. That bug makes no noise: nothing is trained, and the loss just stops falling. `resize_rank(layer, rank, optimizer)`
# of the package puts the new tensors into the optimizer and carries the averages over. Here is one layer, resized in mid-training in both ways:


# %%
def resized_in_the_middle(tell_the_optimizer):
    seed_everything(0)
    x, target = task(8)
    model = inject(
        nn.Sequential(nn.Linear(24, 20, bias=False)),
        AdapterConfig(rank=4, alpha=4, target_modules=["0"]),
    )
    optimizer = make_optimizer(model, lr=1e-2)
    start = model(x).detach()
    losses = []
    for step in range(300):
        if step == 150:
            resize_rank(model, 8, optimizer if tell_the_optimizer else None)
        loss = (model(x) - start - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


fig, ax = plt.subplots(figsize=(7, 3.6))
for told, color, style in ((True, BLUE, "-"), (False, ORANGE, "--")):
    losses = resized_in_the_middle(told)
    ax.semilogy(
        losses, color=color, linestyle=style, label=f"optimizer {'told' if told else 'not told'}"
    )
    print(
        f"optimizer {'told    ' if told else 'not told'}: loss {losses[149]:.4f} before, {losses[150]:.4f} just after, {losses[-1]:.6f} at the end"
    )
ax.axvline(150, color="grey", linewidth=0.8)
ax.set(xlabel="optimizer step", ylabel="mean squared error", title="Rank 4 becomes 8 at step 150")
ax.legend()
plt.show()

# %% [markdown]
# ## When and where: a controller
#
# What is left is the fourth mistake, the thresholds. `RankController` compares the mean loss of a window of steps with the window before, *relative* to it, so that the rule means the same for every task. If progress
# stalls, layers that use all their ranks get more, within a budget of parameters. If it is fast, layers give up ranks whose singular values hardly matter. Between the two thresholds nothing happens, and both need two
# windows in a row: that gap is called *hysteresis*, and without it ranks would go up and down for ever.
#
# Two layers, one that needs rank 6 and one that needs rank 1. Both start with 2.


# %%
class Pair(nn.Module):
    """Two layers side by side."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(24, 20), nn.Linear(24, 20)

    def forward(self, x):
        return torch.cat([self.first(x), self.second(x)], -1)


seed_everything(0)
pair, x = Pair(), torch.randn(512, 24)
with torch.no_grad():
    needed = {
        name: torch.randn(20, r) @ torch.randn(r, 24) / math.sqrt(24 * r)
        for name, r in (("first", 6), ("second", 1))
    }
    target = pair(x) + torch.cat([x @ change.T for change in needed.values()], -1)
inject(pair, AdapterConfig(rank=2, alpha=2, target_modules=["first", "second"]))
optimizer = make_optimizer(pair, lr=3e-3)
controller = RankController(pair, optimizer, budget=10 * (24 + 20), window=25)
ranks, losses = [], []
for _ in range(1200):
    loss = (pair(x) - target).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    controller.update(loss.item())
    losses.append(loss.item())
    ranks.append(list(controller.ranks().values()))

fig, axes = plt.subplots(2, 1, figsize=(7, 4.8), sharex=True)
for number, (name, color, style) in enumerate((("needs 6", BLUE, "-"), ("needs 1", ORANGE, "--"))):
    axes[0].step(
        range(1200),
        [r[number] for r in ranks],
        color=color,
        linestyle=style,
        where="post",
        label=name,
    )
axes[0].set(ylabel="rank", title="The controller at work", ylim=(0, 8))
axes[0].legend()
axes[1].semilogy(losses, color="black")
axes[1].set(xlabel="optimizer step", ylabel="mean squared error")
fig.tight_layout()
plt.show()
print(
    f"ranks at the end {controller.ranks()}, {controller.parameters()} of {controller.budget} parameters, loss {losses[-1]:.1e}"
)

# %% [markdown]
# It finds both ranks, and it shows its manners: a layer at its limit is given two more to try, and gives back what it does not use. It also makes mistakes: where the loss jumps up a little, a rank was given up
# that was still needed, and had to be asked for again. And this is a clean toy, without noise, where rank *means* something. Do not expect such clear steps from a language model.
#
# ## The real run
#
# The packaged encoder, 36 layers, a small piece of Rotten Tomatoes, one pass. First question: is one DyLoRA run, with *your* `nested_branch`, as good at each rank as a LoRA that was trained at that rank? Second question: where
# does AdaLoRA, with *your* budget, spend its ranks?
#
# One setting needs care. DyLoRA's scale α/b is r times louder at b = 1 than at b = r, within one run. The usual α = 2r = 32 was too loud at the small ranks; of 4, 8, 16, 32 and 64, tried beforehand, 16 had the lowest
# loss on the validation split, averaged over the ranks. Each LoRA gets the usual α = 2r, so that its scale is 2 at every rank.


# %%
from lora_course.assets import load_encoder, load_reviews
from lora_course.training.config import TrainingConfig
from lora_course.training.sentiment import evaluate_sentiment, train_sentiment

TARGETS = ["query", "key", "value", "output.dense", "intermediate.dense"]
WORDS = by_profile(smoke=18, cpu=18, full=60)  # at most: short sentences for short runs
splits = load_reviews("rotten_tomatoes", max_words=WORDS)
for split, sizes in {
    "train": dict(smoke=128, cpu=960, full=6000),
    "validation": dict(smoke=32, cpu=200, full=500),
    "test": dict(smoke=64, cpu=500, full=1000),
}.items():
    splits[split] = splits[split].select(range(by_profile(**sizes)))


class MyDyLoRA(DyLoRA):
    """The package's DyLoRA with your branch; each layer draws its rank anew in each training step."""

    def forward(self, x):
        rank = int(torch.randint(1, self.config.rank + 1, ())) if self.training else self.eval_rank
        return self.base_layer(x) + nested_branch(
            x, self.lora_A, self.lora_B, self.config.alpha, rank
        )


class MyAllocator(RankAllocator):
    """The package's allocator with your budget."""

    def budget(self, step):
        first = sum(layer.config.rank for layer in self.layers.values())
        last = self.total_steps - self.final
        return cubic_budget(step, first, self.target_rank * len(self.layers), self.warmup, last)


def fine_tune(method, rank, alpha, learning_rate, layer=None, allocate=False, batch_size=16):
    """A fresh encoder, trained for one pass: model, tokenizer, history, allocator (or None)."""
    seed_everything(0)
    model, tokenizer = load_encoder("packaged", base_dropout=0.0)
    config = AdapterConfig(
        method=method, rank=rank, alpha=alpha, target_modules=TARGETS, trainable=["classifier"]
    )
    inject(model, config, layer=layer).to(device)
    optimizer = make_optimizer(model, learning_rate, weight_decay=0.01)
    allocator = None
    if allocate:
        number = math.ceil(len(splits["train"]) / batch_size)
        allocator = MyAllocator(
            model,
            optimizer,
            target_rank=rank // 2,
            total_steps=number,
            warmup=number // 5,
            final=number // 5,
            orthogonality=0.1,
        )
    history, result = train_sentiment(
        model,
        tokenizer,
        splits,
        TrainingConfig(epochs=1, batch_size=batch_size, learning_rate=learning_rate, seed=0),
        optimizer=optimizer,
        name=f"{method}, rank {rank}",
    )
    print(f"{history.run.name:16s} {history.summary.seconds:4.0f} s  {result}")
    return model, tokenizer, result, allocator


# %%
LORA_RANKS = by_profile(smoke=(1, 8), cpu=(1, 4, 16), full=(1, 2, 4, 8, 16))
separate = {rank: fine_tune("lora", rank, 2 * rank, 2e-3)[2].accuracy for rank in LORA_RANKS}
nested_model, tokenizer, _, _ = fine_tune("dylora", 16, 16, 2e-3, layer=MyDyLoRA)
nested = {}
for rank in (1, 2, 4, 8, 16):
    set_rank(nested_model, rank)
    nested[rank] = evaluate_sentiment(nested_model, tokenizer, splits["test"]).accuracy

# %%
n = len(splits["test"])
fig, ax = plt.subplots(figsize=(7, 3.8))
for name, results, color, style in (
    ("LoRA, one run for each rank", separate, BLUE, "o-"),
    ("DyLoRA, one run for all", nested, ORANGE, "s--"),
):
    error = [math.sqrt(a * (1 - a) / n) for a in results.values()]
    ax.errorbar(
        results.keys(), results.values(), yerr=error, fmt=style, color=color, capsize=3, label=name
    )
ax.axhline(0.5, color="grey", linewidth=0.8, label="guessing")
ax.set_xscale("log", base=2)
ax.set_xticks(list(nested), [str(rank) for rank in nested])
ax.set(
    xlabel="rank at test time",
    ylabel=f"accuracy on {n} test sentences",
    title="One run for all ranks, or one run each?",
)
ax.legend()
fig.tight_layout()
plt.show()
print(
    f"{describe_device(device)}; {len(splits['train'])} sentences of up to {WORDS} words, one pass a run, one seed, ± one standard error of {n} sentences"
)
print("LoRA   " + "   ".join(f"r={r}: {a:.3f}" for r, a in separate.items()))
print("DyLoRA " + "   ".join(f"r={r}: {a:.3f}" for r, a in nested.items()))

# %% [markdown]
# And AdaLoRA: 8 ranks a layer at the start, 4 on average at the end. It begins slowly: E is zero, and until A and B have turned to where the gradient is, E has little to scale. So it gets batches of 8, which makes twice as many
# steps of the same sentences, and a light penalty.

# %%
import tempfile

from safetensors.torch import load_file

ada_model, _, ada_result, allocator = fine_tune("adalora", 8, 32, 3e-3, allocate=True, batch_size=8)
kinds = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attention out",
    "intermediate.dense": "MLP in",
    "output.dense": "MLP out",
}
kept = torch.tensor(
    [[allocator.ranks()[f"bert.encoder.layer.{i}.{kind}"] for i in range(6)] for kind in kinds]
)
fig, ax = plt.subplots(figsize=(7, 4))
image = ax.imshow(kept, cmap="cividis", vmin=0, vmax=8, aspect="auto")
for row in range(6):
    for column in range(6):
        value = int(kept[row, column])
        ax.text(
            column, row, value, ha="center", va="center", color="white" if value < 5 else "black"
        )
ax.set_xticks(range(6), [str(i) for i in range(6)])
ax.set_yticks(range(6), list(kinds.values()))
ax.set(xlabel="layer of the encoder", title="Ranks that AdaLoRA kept, of 8")
fig.colorbar(image, label="rank")
fig.tight_layout()
plt.show()

in_memory = sum(p.numel() for adapter in adapters(ada_model).values() for p in adapter.factors())
with tempfile.TemporaryDirectory() as folder:
    save_adapter(ada_model, folder)
    saved = load_file(f"{folder}/adapter_model.safetensors")
in_file = sum(t.numel() for name, t in saved.items() if "lora_" in name)
print(f"{int(kept.sum())} of {36 * 8} ranks kept")
print(f"numbers in A, E and B: {in_memory:,} in memory, {in_file:,} in the saved file")

# %% [markdown]
# ## A sober verdict
#
# - **DyLoRA** saves you the search over ranks. In the run saved here its bars overlap those of the other line at each rank that both have: one run did the work of several. But look at the other line, too. It is nearly flat: on so small a task
#   rank 1 does almost as well as rank 16, and a flat line is easy to keep up with. On a task where rank matters, each rank gets only a share of the training, and there is no reason why that should be free.
# - **AdaLoRA** came out a little lower than the LoRA of rank 4, which has as many ranks, although it took twice as many steps; one seed cannot say whether that is more than noise. It needs time to find its directions before it can choose among them. Its picture is interesting, but read it with care. It comes from one seed and about a
#   hundred steps, and which of two similar layers keeps a rank may be chance. It prefers the values and outputs of attention to the MLP here, while the study "LoRA Without Regret" found the MLP to matter most. Masked ranks cost memory and time all through
#   training. And it brings new settings: two ranks, three moments, two averages, a penalty.
# - **Resizing** is for long runs and tight budgets, where memory really has to go. It needs a signal that means something, and on real data the loss of a window is a noisy one.
#
# The plain alternative deserves to be named: choose a rank that is surely enough, put it on every layer, and spend your time on the learning rate. In the comparison that comes with PEFT (Llama-3.2-3B, MetaMathQA), AdaLoRA
# reached a test accuracy of .373, plain LoRA with rank 32 on two matrices .478 (one seed, one learning rate for both, and a much smaller alpha for AdaLoRA: hear it with the caution of lesson 13).
#
# ## Self-test
#
# Answer before you open them.
#
# <details><summary>1. Why may you cut a DyLoRA at any rank, and not a LoRA?</summary>
#
# In DyLoRA's training the first b ranks had to do the work alone, again and again, for every b. In a LoRA all ranks were always there, and the change is spread over them in no particular order.
#
# </details>
# <details><summary>2. AdaLoRA halves the number of ranks. By how much does the memory for the optimizer's state fall during training?</summary>
#
# Not at all. A masked rank keeps its row, its column and its averages, so that it can return. The saved file is smaller, and you could build a smaller model from it afterwards.
#
# </details>
# <details><summary>3. You grow a layer from rank 4 to 8 with zero columns of B, and leave alpha alone. What happens to its output?</summary>
#
# It halves its change: α/r went from α/4 to α/8. The new ranks add nothing yet, but the old ones are scaled down. Alpha has to double as well.
#
# </details>
#
# ## Reading
#
# - Valipour et al. 2022, [DyLoRA](https://arxiv.org/abs/2210.07558): section 3 is exercise 11.1; they also try training one rank at a time.
# - Zhang et al. 2023, [AdaLoRA](https://arxiv.org/abs/2303.10512): section 3 has the score and the budget; their figures of ranks per layer are worth a look beside yours.
# - Lesson 01 for the singular values, lesson 07 for what the scale does when the rank changes, lesson 12 for searching over ranks.
