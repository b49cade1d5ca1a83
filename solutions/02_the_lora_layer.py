# %% [markdown]
# # 02 · The LoRA layer
#
# **The question.** A pretrained layer knows a lot. How can it learn something new if not one of its weights may change?
#
# **What you will be able to do**
# - say what A, B, rank and alpha are, with shapes, and count what they cost;
# - write a LoRA layer from nothing but PyTorch, with dropout where it belongs and an initialisation that trains;
# - derive its backward pass on paper and hold it against autograd;
# - merge it, in both layouts that transformers use;
# - put *your* layer into a real pretrained encoder, train it, and open the result in PEFT.
#
# **Time and memory.** About 75 minutes, most of them yours: the cells themselves take about a minute on two CPU cores, and
# about 1.5 GiB of memory.

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.testing import assert_close

from lora_course import AdapterConfig, adapters, inject, parameter_report, save_adapter
from lora_course.adapters.base import Adapter
from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.teaching.exercises import check
from lora_course.teaching.profiles import by_profile

device = choose_device()
print(describe_device(device))

# %% [markdown]
# ## One equation
#
# A linear layer computes $h = Wx + b$ with a weight $W$ of shape (out, in). Fine-tuning it adds some change $\Delta W$.
# Hu et al. (2021) bet that the change a new task needs has *low rank*: it can be written as a product of two thin
# matrices. Lesson 01 looks at why that bet is good. Here we take it and build:
#
# $$h = Wx + b + \frac{\alpha}{r}\, B A\, \mathrm{dropout}(x)$$
#
# | symbol | shape | trained? | what it is |
# |---|---|---|---|
# | $W$ | (out, in) | no | the pretrained weight, frozen |
# | $A$ | (r, in) | yes | takes the input down to r numbers |
# | $B$ | (out, r) | yes | takes those r numbers up to the output |
# | $r$ | a number | no | the *rank*, say 8 |
# | $\alpha$ | a number | no | how loud the branch is; the *scaling* is $\alpha / r$ |
#
# Three decisions hide in that line, and each is an exercise: how A and B start (02.2), where dropout and the scaling go
# (02.3), and the order of the products. Compute $B(Ax)$, never $(BA)x$: the first costs r (in + out) multiplications a token,
# the second builds the whole (out, in) matrix that LoRA exists to avoid.

# %% [markdown]
# ## Exercise 02.1 · Count what LoRA trains
#
# ★ · 5 minutes
#
# Write `count_lora_parameters(in_features, out_features, rank)`: how many numbers do A and B hold together?
#
# <details><summary>Nudge</summary>
#
# A and B are two separate matrices. Their shapes are in the table above.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# A holds r · in numbers. How many does B hold?
#
# </details>
# <details><summary>Outline</summary>
#
# Add both products and take the common factor r out.
#
# </details>


# %% exercise="02.1"
def count_lora_parameters(in_features: int, out_features: int, rank: int) -> int:
    """Trainable parameters of one LoRA layer of this shape."""
    ### BEGIN SOLUTION
    return rank * (in_features + out_features)
    ### END SOLUTION


# %% check="02.1"
count_lora_parameters = check("02.1", count_lora_parameters)

# %% [markdown]
# What does that mean for a layer of a real model? The cell below counts one 768 × 768 projection, the size found in
# BERT-base. Low rank is cheap, but it is not free: at some rank LoRA holds as many numbers as the matrix it replaces.

# %% tags=["nbval-check-output"]
size = 768
for rank in (1, 4, 8, 64, size // 2):
    trained = count_lora_parameters(size, size, rank)
    print(
        f"rank {rank:3d}: {trained:7,d} trained, {100 * trained / size**2:6.2f} % of the {size**2:,} frozen ones"
    )

# %% [markdown]
# ## Exercise 02.2 · Start at the pretrained model
#
# ★★ · 10 minutes
#
# Training should begin exactly where pretraining ended, so $BA$ must be 0 at the start. There are three ways to get there,
# and only one of them is LoRA's. Write `init_lora(in_features, out_features, rank)` that returns A and B as `nn.Parameter`s:
# A drawn as `nn.Linear` draws its own weight, B zero.
#
# Before you write: what would the *gradients* of A and B be in the first step if both were zero?
#
# <details><summary>Nudge</summary>
#
# The gradient of B is (something) times $Ax$; the gradient of A is (something) times $B$. If both are zero, neither moves.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `nn.init.kaiming_uniform_(tensor, a=math.sqrt(5))` is what `nn.Linear` calls. It makes the values uniform within
# ±1/√in, so that the size of $Ax$ does not depend on how wide the layer is.
#
# </details>
# <details><summary>Outline</summary>
#
# Make `A = nn.Parameter(torch.empty(rank, in_features))`, fill it in place with the call above, make B with
# `torch.zeros(out_features, rank)`, and return both.
#
# </details>


# %% exercise="02.2"
def init_lora(in_features: int, out_features: int, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """A (rank, in_features) and B (out_features, rank), ready to train."""
    ### BEGIN SOLUTION
    A = nn.Parameter(torch.empty(rank, in_features))
    nn.init.kaiming_uniform_(A, a=math.sqrt(5))
    B = nn.Parameter(torch.zeros(out_features, rank))
    return A, B
    ### END SOLUTION


# %% check="02.2"
init_lora = check("02.2", init_lora)

# %% [markdown]
# Who moves in the first step? B does, A does not: its gradient is multiplied by B, which is still zero. From the second
# step on both move. The cell prints the two gradient norms over the first three steps of plain gradient descent.

# %% tags=["nbval-check-output"]
seed_everything(0)
A, B = init_lora(20, 12, 3)
x, target = torch.randn(64, 20), torch.randn(64, 12)
for step in range(3):
    loss = (x @ A.T @ B.T - target).square().mean()
    grad_A, grad_B = torch.autograd.grad(loss, [A, B])
    print(f"step {step}: |grad A| = {grad_A.norm():.5f}   |grad B| = {grad_B.norm():.5f}")
    with torch.no_grad():
        A -= grad_A
        B -= grad_B

# %% [markdown]
# ## Exercise 02.3 · The layer itself
#
# ★★★ · 25 minutes
#
# Now the layer. `Adapter` is a small base class of this course's package: it keeps the original layer, frozen, in
# `self.base_layer`, knows `self.in_features` and `self.out_features`, makes parameters with the right dtype and device
# (`self.new_parameter(rows, columns)`), and merges and unmerges whatever `delta_weight()` returns. You write the rest:
#
# - `__init__`: the parameters `lora_A` and `lora_B`, initialised as in 02.2, and a dropout module;
# - `forward(x)`: the equation above. If `self.merged` is true, the change is in W already: return the base output alone;
# - `delta_weight()`: the (out, in) change that merging adds.
#
# `config` has `rank`, `alpha` and `dropout`.
#
# <details><summary>Nudge</summary>
#
# x may have any number of leading dimensions: (batch, sequence, in). `x @ M.T` works on all of them, and so does
# `nn.functional.linear(x, M)`.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# Two outputs, added: `self.base_layer(x)` sees x as it is; the branch sees `self.dropout(x)`. The factor is
# `config.alpha / config.rank` (which is also `config.scaling`).
#
# </details>
# <details><summary>Outline</summary>
#
# `h = base_layer(x)`; if merged, return h; otherwise return h + scaling · (dropout(x) Aᵀ) Bᵀ. `delta_weight` is scaling · B A,
# the one place where the product of both is built.
#
# </details>


# %% exercise="02.3"
class LoRALinear(Adapter):
    """A frozen linear layer plus a trainable rank-r update."""

    def __init__(self, base_layer: nn.Linear, config: AdapterConfig):
        super().__init__(base_layer, config)
        ### BEGIN SOLUTION
        self.lora_A = self.new_parameter(config.rank, self.in_features)
        self.lora_B = self.new_parameter(self.out_features, config.rank)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)
        self.dropout = nn.Dropout(config.dropout)
        ### END SOLUTION

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., in); returns (..., out)."""
        ### BEGIN SOLUTION
        h = self.base_layer(x)  # (..., out)
        if self.merged:
            return h
        low = self.dropout(x) @ self.lora_A.T  # (..., r)
        return h + self.config.alpha / self.config.rank * (low @ self.lora_B.T)
        ### END SOLUTION

    def delta_weight(self) -> torch.Tensor:
        """The (out, in) change of the weight."""
        ### BEGIN SOLUTION
        return self.config.alpha / self.config.rank * (self.lora_B @ self.lora_A)
        ### END SOLUTION


# %% check="02.3"
LoRALinear = check("02.3", LoRALinear)

# %% [markdown]
# ## Bug lab · The scale that forgot its rank
#
# This layer has the right shapes and the right initialisation. It trains without an error. It is also more than a hundred
# times too quiet, and code like it is all over the web:


# %%
class QuietLayer(nn.Module):
    """A plausible layer with one wrong line."""

    def __init__(self, in_features, out_features, rank=4):
        super().__init__()
        self.A, self.B = init_lora(in_features, out_features, rank)
        self.scaling = 0.01

    def forward(self, x):
        return x @ self.A.T @ self.B.T * self.scaling


# %% [markdown]
# **Predict.** We ask the layer to learn a change of rank 4 exactly, which a rank-4 branch can represent. With AdamW at the
# same learning rate for 300 steps: how far does the quiet layer get, compared with one whose scaling is α/r = 16/4?
#
# **Run.**


# %%
def learn_a_change(scaling: float, steps: int = 300) -> list[float]:
    """Loss at each step while a rank-4 branch learns a rank-4 change, input 32 wide, output 24."""
    seed_everything(0)
    layer = QuietLayer(32, 24)
    layer.scaling = scaling
    x = torch.randn(256, 32)
    change = torch.randn(24, 4) @ torch.randn(4, 32) / 32
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = (layer(x) - x @ change.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


quiet, loud = learn_a_change(0.01), learn_a_change(16 / 4)

fig, ax = plt.subplots(figsize=(7, 3.6))
ax.semilogy(quiet, color="#D55E00", linestyle="--", label="scaling 0.01")
ax.semilogy(loud, color="#0072B2", label="scaling alpha / r = 4")
ax.set(xlabel="AdamW step", ylabel="mean squared error", title="The same layer, two scalings")
ax.legend()
plt.show()
print(
    f"after {len(quiet)} steps on CPU: scaling 0.01 -> {quiet[-1]:.4f}, scaling 4 -> {loud[-1]:.6f}"
)

# %% [markdown]
# **Explain.** Adam takes steps of about the learning rate, whatever the size of the gradient. A and B therefore grow equally
# fast in both runs, and the change they make, s·BA, is 400 times smaller in one of them. The loss is not stuck: it is
# *slow*, which looks exactly like "LoRA does not work on my task".
#
# **Fix.** One line: `self.scaling = alpha / rank`. Dividing by the rank keeps the size of the update comparable when you change
# r, so that a learning rate that works at rank 8 is a fair first guess at rank 32. (Lesson 07 meets rsLoRA, which argues for
# √r.)

# %% [markdown]
# ## Exercise 02.4 · The backward pass by hand
#
# ★★★ · 20 minutes
#
# Autograd will do this for you for the rest of your life. Do it once yourself: lesson 09 needs it to see *which* tensors must
# be kept for the backward pass, and that is where the memory goes.
#
# For the branch $h = s\,(xA^\top)B^\top$ with x of shape (N, in), write `lora_backward(grad_h, x, A, B, scaling)` that returns
# the gradients of x, A and B. `grad_h` (N, out) is the gradient of the loss with respect to h. No autograd, only products.
#
# <details><summary>Nudge</summary>
#
# For $y = uM^\top$: the gradient of u is $g\,M$ and the gradient of M is $g^\top u$. The branch is that rule used twice.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# Name the middle: $u = xA^\top$ (N, r). First go back through B: the gradient of u is $s\,g\,B$ (N, r) and the gradient of B is
# $s\,g^\top u$. Then go back through A in the same way.
#
# </details>
# <details><summary>Outline</summary>
#
# Three products with the shapes (N, r)(r, in), (r, N)(N, in) and (out, N)(N, r). Check each shape; the scaling appears
# exactly once in each gradient.
#
# </details>


# %% exercise="02.4"
def lora_backward(
    grad_h: torch.Tensor, x: torch.Tensor, A: torch.Tensor, B: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """grad_x (N, in), grad_A (r, in), grad_B (out, r) of the branch scaling * (x A^T) B^T."""
    ### BEGIN SOLUTION
    grad_low = scaling * grad_h @ B  # (N, r)
    grad_x = grad_low @ A  # (N, in)
    grad_A = grad_low.T @ x  # (r, in)
    grad_B = scaling * grad_h.T @ (x @ A.T)  # (out, r)
    return grad_x, grad_A, grad_B
    ### END SOLUTION


# %% check="02.4"
lora_backward = check("02.4", lora_backward)

# %% [markdown]
# Look at what your function *needs*: x for grad_A, $xA^\top$ for grad_B (or x again), and neither W nor $Wx$. A frozen weight needs
# no gradient, but x must still be kept. LoRA saves gradients and optimizer state, not activations. Lesson 09 measures it to
# the byte.

# %% [markdown]
# ## Exercise 02.5 · Merge, in both layouts
#
# ★★ · 10 minutes
#
# After training, the branch can be folded into the weight: one matrix again, no extra cost at inference. GPT-2 has a surprise
# in store: its layers are `Conv1D` modules from transformers, which keep the weight as **(in, out)**.
#
# Write `merge_into(layer, A, B, scaling)` that changes `layer.weight` in place, for an `nn.Linear` and for a `Conv1D`.
#
# <details><summary>Nudge</summary>
#
# B A is (out, in). For which of the two layers does that fit as it is?
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# Do not decide by comparing shapes: a square weight fits both ways round and would be silently wrong. Ask
# `isinstance(layer, nn.Linear)`. And a leaf that requires gradients may only be changed in place under `torch.no_grad()`.
#
# </details>
# <details><summary>Outline</summary>
#
# delta = scaling · B A; transpose it unless the layer is an `nn.Linear`; `layer.weight += delta` under `no_grad`.
#
# </details>


# %% exercise="02.5"
def merge_into(layer: nn.Module, A: torch.Tensor, B: torch.Tensor, scaling: float) -> None:
    """Add the branch to the weight of an nn.Linear (out, in) or a transformers Conv1D (in, out)."""
    ### BEGIN SOLUTION
    delta = scaling * B @ A  # (out, in)
    with torch.no_grad():
        layer.weight += delta if isinstance(layer, nn.Linear) else delta.T
    ### END SOLUTION


# %% check="02.5"
merge_into = check("02.5", merge_into)

# %% [markdown]
# ## For real: your layer in a pretrained encoder
#
# Time to use it. `inject` walks through a model, wraps every layer whose name ends in one of `target_modules`, and freezes the rest. We
# hand it **your class**, so that every query, key, value and dense layer of a pretrained six-layer BERT-family encoder becomes
# a `LoRALinear` of yours. The classification head is new and is trained whole.

# %%
from lora_course.assets import load_encoder, load_reviews
from lora_course.training.config import TrainingConfig
from lora_course.training.sentiment import train_sentiment

seed_everything(0)
model, tokenizer = load_encoder("packaged", base_dropout=0.0)
config = AdapterConfig(
    rank=8, alpha=16, target_modules=["query", "key", "value", "dense"], trainable=["classifier"]
)
inject(model, config, layer=LoRALinear).to(device)
assert all(isinstance(adapter, LoRALinear) for adapter in adapters(model).values())
parameter_report(model)

# %%
REVIEWS = by_profile(smoke=64, cpu=1200, full=6000)
splits = load_reviews("rotten_tomatoes")
splits["train"] = splits["train"].select(range(REVIEWS))
splits["test"] = splits["test"].select(range(by_profile(smoke=64, cpu=500, full=1000)))
history, result = train_sentiment(
    model,
    tokenizer,
    splits,
    TrainingConfig(epochs=1, batch_size=16, learning_rate=2e-3, seed=0),
    name="my LoRALinear",
)
print(history)
print(result)

# %% [markdown]
# That was your layer, on real text. (With so few sentences the score is modest; lesson 04 does it properly.)
#
# ## Does the rest of the world agree?
#
# `save_adapter` writes PEFT's own format. So the strongest test there is costs five lines: open your adapter in PEFT, in a fresh
# copy of the base model, and compare the outputs.

# %%
import tempfile
import warnings

from peft import PeftModel

sentences = ["a warm , funny , beautifully acted film", "two hours that i will never get back"]
inputs = tokenizer(sentences, padding=True, return_tensors="pt").to(device)
model.eval()
warnings.filterwarnings("ignore", ".*is_gradient_checkpointing")  # PEFT reads an old name of transformers
with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    save_adapter(model, folder)
    fresh, _ = load_encoder("packaged", base_dropout=0.0)
    theirs = PeftModel.from_pretrained(fresh, folder).to(device).eval()
    ours, peft_says = model(**inputs).logits, theirs(**inputs).logits
assert_close(ours, peft_says, rtol=0, atol=1e-5)
print(f"largest difference between your layer and PEFT's: {(ours - peft_says).abs().max():.1e}")

# %% [markdown]
# ## Self-test
#
# Answer before you open them.
#
# <details><summary>1. A colleague doubles the rank and leaves alpha alone. How does the size of the update change?</summary>
#
# Twice as many rank-1 terms, each weighted by α/r, which has halved: the size stays about the same. That is why α/r is there.
#
# </details>
# <details><summary>2. LoRA trains about one percent of the parameters. Is a training step a hundred times faster?</summary>
#
# No. The forward pass is as long as before, plus the branch, and the backward pass must still carry gradients *through* every
# frozen layer down to the first adapter. What falls away is the gradient of W itself, which is at best a third of the work of a step,
# and the optimizer's work on it.
#
# </details>
# <details><summary>3. When would you not merge?</summary>
#
# When several adapters share one base and are swapped per request; when you want to train on; and when the base is quantized,
# since a small change is lost in rounding (lesson 10).
#
# </details>
#
# ## Reading
#
# - Hu et al. 2021, [LoRA: Low-Rank Adaptation of Large Language Models](https://arxiv.org/abs/2106.09685): section 4
#   is this lesson.
# - Houlsby et al. 2019, [Parameter-Efficient Transfer Learning for NLP](https://arxiv.org/abs/1902.00751): the bottleneck adapters
#   that came before, and why adding layers costs time at inference where merging does not.
# - Lesson 03 puts LoRA inside attention; lesson 09 counts what the backward pass keeps.
