# %% [markdown]
# # 00 · Start here
#
# **The question.** Can a laptop teach a pretrained language model something new, in about a minute, and how would you know that it
# worked?
#
# **What you will be able to do**
# - run this course: cells, exercises, hints, progress;
# - fine-tune a real pretrained encoder with LoRA on real film reviews;
# - say how much of a model was trained, what a score must beat, and how to measure without disturbing what you measure.
#
# **Time and memory.** About 35 minutes of reading and exercises. The cells run for about a minute and a half on two CPU cores and need
# about 1.5 GiB of memory. The first run also fetches models and data once (about 190 MB).

# %% [markdown]
# ## How a lesson works
#
# Run the cells from top to bottom (Shift+Enter). Some of them are **exercises**: a function whose body is missing, and right below
# it a cell that checks what you wrote. The check
#
# - says calmly that an exercise is unsolved, and lends you the reference solution so that the notebook runs on;
# - names the property that fails, and the likely mistake, when an answer is wrong;
# - hands your own object back when it is right, so that **your** code does the work in the rest of the lesson.
#
# Under each exercise there are three hints, from a nudge to an outline. Open them one at a time. Solutions lie in the
# `solutions/` folder, and looking is allowed: typing it in yourself afterwards is what teaches.
#
# `Mem` in the bar at the bottom is what JupyterLab and all your open notebooks hold at the moment. When you are through with a lesson, *Kernel,
# Shut Down Kernel* gives its share back.

# %%
import math
from collections import Counter

import matplotlib.pyplot as plt
import torch
from torch import nn

from lora_course import AdapterConfig, inject, parameter_report
from lora_course.assets import load_encoder, load_reviews
from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.teaching.exercises import check
from lora_course.teaching.profiles import by_profile, current_profile
from lora_course.training.config import TrainingConfig
from lora_course.training.sentiment import evaluate_sentiment, train_sentiment

device = choose_device()
print(describe_device(device))
print(f"profile: {current_profile()}")

# %% [markdown]
# The *profile* decides how big the runs are: `cpu` here on a laptop, `full` where there is a GPU. Nothing in a lesson names a
# device; the line above says which one was chosen. If something looks wrong, run `lora-course doctor` in a terminal.
#
# ## Real data
#
# Rotten Tomatoes: one sentence from a film review, labelled negative (0) or positive (1). The three splits are fixed and share no
# text, so a score on the test split is a score on sentences that the model has never seen.

# %%
splits = load_reviews("rotten_tomatoes")

# %% tags=["nbval-check-output"]
for name, split in splits.items():
    print(f"{name:10s} {len(split):5d} sentences, {sum(split['label'])} of them positive")
print()
for example in splits["train"].select(range(3)):
    print(example["label"], example["text"][:90])

# %% [markdown]
# ## Exercise 00.1 · How much of it is trained?
#
# ★ · 8 minutes
#
# The whole point of this course is to train *little*. Write `trainable_percent(model)`: of all the numbers in a model's parameters, what
# percentage will an optimizer change? A parameter `p` holds `p.numel()` numbers, and `p.requires_grad` says whether it is trained.
#
# <details><summary>Nudge</summary>
#
# `model.parameters()` gives each parameter once, even if two layers share it.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# Two sums over the same loop: one over all parameters, one over those with `requires_grad`.
#
# </details>
# <details><summary>Outline</summary>
#
# 100 times the second sum, divided by the first. Count numbers, not tensors.
#
# </details>


# %% exercise="00.1"
def trainable_percent(model: nn.Module) -> float:
    """Trainable parameters as a percentage of all."""
    ### BEGIN SOLUTION
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return 100 * trained / total
    ### END SOLUTION


# %% check="00.1"
trainable_percent = check("00.1", trainable_percent)

# %% [markdown]
# ## Exercise 00.2 · What must a model beat?
#
# ★ · 8 minutes
#
# An accuracy means nothing alone. The simplest opponent always gives the same answer: the label that is most frequent in the
# **training** data. Write `majority_baseline(train_labels, test_labels)`: the accuracy of that answer on the test labels, as a
# fraction.
#
# <details><summary>Nudge</summary>
#
# Which of the two lists may you look at to *choose* the label, and which one to *score* it?
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `Counter(train_labels).most_common(1)` gives a list with one pair: the label and how often it occurs.
#
# </details>
# <details><summary>Outline</summary>
#
# Choose the label on the training list; count how many test labels equal it; divide by the number of test labels.
#
# </details>


# %% exercise="00.2"
def majority_baseline(train_labels: list[int], test_labels: list[int]) -> float:
    """Accuracy on the test labels of always answering the most frequent training label."""
    ### BEGIN SOLUTION
    label = Counter(train_labels).most_common(1)[0][0]
    return sum(y == label for y in test_labels) / len(test_labels)
    ### END SOLUTION


# %% check="00.2"
majority_baseline = check("00.2", majority_baseline)

# %% tags=["nbval-check-output"]
chance = majority_baseline(splits["train"]["label"], splits["test"]["label"])
print(f"always the same answer: accuracy {chance:.3f} on {len(splits['test'])} test sentences")

# %% [markdown]
# ## Exercise 00.3 · Measure without touching
#
# ★★ · 8 minutes
#
# While training, a model drops random activations (dropout) and keeps intermediate results for the backward pass. While
# *measuring* you want neither, and afterwards the model should be in the mode in which you found it. Write
# `evaluate_properly(model, batch)` that returns `model(**batch)` under those conditions.
#
# <details><summary>Nudge</summary>
#
# Two different switches: one for dropout, one for the graph. Neither does the other's work.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `model.eval()` and `with torch.no_grad():`. And `model.training` tells the present mode before you change it.
#
# </details>
# <details><summary>Outline</summary>
#
# Remember `model.training`; `eval()`; run inside `no_grad`; `model.train(remembered)`; return the result.
#
# </details>


# %% exercise="00.3"
def evaluate_properly(model: nn.Module, batch: dict) -> object:
    """What model(**batch) gives in eval mode and without a graph; the model's mode is as before."""
    ### BEGIN SOLUTION
    was_training = model.training
    model.eval()
    with torch.no_grad():
        output = model(**batch)
    model.train(was_training)
    return output
    ### END SOLUTION


# %% check="00.3"
evaluate_properly = check("00.3", evaluate_properly)

# %% [markdown]
# ## Bug lab · The score that would not hold still
#
# The function below measures the loss of a model on sixteen sentences. It looks fine. **Predict:** called twice on the same model and
# the same sentences, will it print the same number twice?

# %%
seed_everything(0)
untouched, tokenizer = load_encoder("packaged")
untouched.to(device).train()
some = splits["validation"].select(range(16))
batch = tokenizer(list(some["text"]), padding=True, return_tensors="pt").to(device)
batch["labels"] = torch.tensor(list(some["label"]), device=device)


def measure_loss(model):
    return model(**batch).loss.item()


# %% [markdown]
# **Run.**

# %%
print(f"first {measure_loss(untouched):.4f}, again {measure_loss(untouched):.4f}")
print(
    f"yours {evaluate_properly(untouched, batch).loss:.4f}, again {evaluate_properly(untouched, batch).loss:.4f}"
)

# %% [markdown]
# **Explain.** The model is in training mode, so dropout zeroes other activations in each call. The loss is noisy and, worse, it is the loss of a
# damaged model: the score you report is not the score of the model you ship. **Fix:** what you wrote in 00.3. Our training loop does it for
# you, and so does every good one, but the bug is one forgotten `eval()` away whenever you write your own.

# %% [markdown]
# ## The first fine-tune
#
# Now the real thing. We take a pretrained encoder of 22.7 million parameters, freeze all of them, and give each linear layer a small
# trainable update: LoRA, which you will build yourself in lesson 02. Only the classification head is new, and is trained whole.
#
# First, how good is the **untouched** model, with its head still random?

# %%
test = splits["test"].select(range(by_profile(smoke=64, cpu=1500, full=1500)))
before = evaluate_sentiment(untouched, tokenizer, test)
print(before)

# %% [markdown]
# As good as guessing, as it should be: nobody has told the head what positive means. Now inject the adapters.

# %%
seed_everything(0)
model, tokenizer = load_encoder("packaged", base_dropout=0.0)
config = AdapterConfig(
    rank=8, alpha=16, target_modules=["query", "key", "value", "dense"], trainable=["classifier"]
)
inject(model, config).to(device)
print(f"trained: {trainable_percent(model):.2f} %")
parameter_report(model)

# %% [markdown]
# One pass over a few thousand sentences. The bar shows the loss going down; the first number to expect from guessing between two
# classes is ln 2 ≈ 0.69.

# %%
SENTENCES = by_profile(smoke=64, cpu=4000, full=6528)
splits["train"] = splits["train"].select(range(SENTENCES))
splits["test"] = test
history, after = train_sentiment(
    model,
    tokenizer,
    splits,
    TrainingConfig(epochs=1, batch_size=16, learning_rate=1e-3, seed=0),
    name="first fine-tune",
)
print(history)
print(after)

# %%
print(f"always the same answer  accuracy {chance:.3f}")
print(f"untouched model         accuracy {before.accuracy:.3f}   F1 {before.f1:.3f}")
print(f"after {SENTENCES:,} sentences   accuracy {after.accuracy:.3f}   F1 {after.f1:.3f}")

# %% [markdown]
# ## Look at the run
#
# The loop wrote down each step. Steps are noisy, so the plot shows each of them faintly, and their running mean.

# %%
steps = [row.step for row in history.steps]
losses = torch.tensor([row.loss for row in history.steps])
window = max(1, len(losses) // 10)
running = losses.unfold(0, window, 1).mean(1)

fig, ax = plt.subplots(figsize=(7, 3.6))
ax.plot(steps, losses, color="#0072B2", alpha=0.25, label="each step")
ax.plot(steps[window - 1 :], running, color="#0072B2", label=f"mean of {window} steps")
ax.axhline(math.log(2), color="#555555", linestyle=":", label="guessing, ln 2")
ax.set(xlabel="optimizer step", ylabel="training loss (nats)", title="The first fine-tune")
ax.legend()
plt.show()

# %% [markdown]
# ## Try it
#
# Write sentences of your own.

# %%
sentences = [
    "a tender , witty film that stays with you",
    "the plot is a mess and the jokes are worse",
    "i expected nothing and was still disappointed",
    "not bad at all",
]
inputs = tokenizer(sentences, padding=True, return_tensors="pt").to(device)
positive = evaluate_properly(model, inputs).logits.softmax(-1)[:, 1]
for sentence, p in zip(sentences, positive.tolist(), strict=True):
    print(f"{p:4.0%} positive   {sentence}")

# %% [markdown]
# ## Your progress
#
# Every exercise that you solve is remembered, in your own user folder, across lessons and restarts.

# %%
from lora_course.teaching.progress import progress

solved = [exercise for exercise, outcome in progress().items() if outcome == "right"]
print("solved so far:", ", ".join(solved) or "none yet")

# %% [markdown]
# Here is the whole course, a square for each exercise. The first map is drawn once, as a newcomer finds it; under it stands the live one, yours.
# **Try it.** Solve an exercise above, run its check, and come back: the live map has looked again by itself.

# %%
from lora_course.teaching.widgets import course_map

course_map.static()

# %%
course_map.explore()

# %% [markdown]
# ## Self-test
#
# <details><summary>1. The test split has as many positive as negative sentences. A model answers "positive" every time. Its accuracy? Its F1?</summary>
#
# Accuracy 0.5. Precision is 0.5 and recall is 1, so F1 is 2/3: higher than chance looks. Always report both, and the baseline.
#
# </details>
# <details><summary>2. Why do we choose settings on the validation split and report on the test split?</summary>
#
# Whatever you choose by looking at a split is fitted to it a little. The test split is only honest while nobody has chosen anything by it.
#
# </details>
# <details><summary>3. About one percent of the parameters were trained. Does the optimizer's memory shrink by the same factor?</summary>
#
# Yes: Adam keeps two numbers for each *trained* parameter, and gradients too exist only for those. The frozen weights themselves and the
# activations remain; lesson 09 measures all four.
#
# </details>
#
# ## Reading
#
# - Hu et al. 2021, [LoRA: Low-Rank Adaptation of Large Language Models](https://arxiv.org/abs/2106.09685): the abstract and figure 1 are enough
#   for today.
# - Devlin et al. 2018, [BERT](https://arxiv.org/abs/1810.04805): the family that our encoder comes from.
# - Next: lesson 01 asks why so little is enough, lesson 02 builds the layer that did all this.
