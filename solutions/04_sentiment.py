# %% [markdown]
# # 04 · A sentiment classifier, start to finish
#
# **The question.** Training 1.5 % of the parameters: how close does it come to training all of them, and what does it really save?
#
# **What you will be able to do**
# - build every part of a fine-tune: padding, schedule, accumulation, metrics;
# - run it with *your* parts on a real pretrained encoder, with a validation split that chooses and a test split that judges;
# - compare LoRA with full fine-tuning on the same budget, and report it honestly;
# - take apart claims such as "95.2 % fewer parameters".
#
# **Time and memory.** About 90 minutes. The cells run for about six minutes on two CPU cores (three training runs) and need about 2.5 GiB of
# memory. With a GPU, or with `LORA_COURSE_PROFILE=full`, the same cells fine-tune bert-base-uncased on IMDB at 512 tokens.

# %%
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from lora_course import AdapterConfig, inject, parameter_report
from lora_course.assets import load_encoder, load_reviews
from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.teaching.exercises import check
from lora_course.teaching.profiles import by_profile, current_profile
from lora_course.training.config import TrainingConfig
from lora_course.training.losses import r_drop
from lora_course.training.sentiment import tokenize_reviews, train_sentiment

device = choose_device()
settings = by_profile(
    smoke=dict(
        model="packaged",
        data="rotten_tomatoes",
        train=64,
        test=64,
        validation=32,
        max_length=64,
        epochs=1,
        batch=16,
        learning_rate=1e-3,
        comparison=dict(train=None, epochs=1, rates={"LoRA r=8": 2e-3, "full": 1e-4}),
    ),
    cpu=dict(
        model="packaged",
        data="rotten_tomatoes",
        train=None,
        test=None,
        validation=None,
        max_length=64,
        epochs=3,
        batch=16,
        learning_rate=1e-3,
        comparison=dict(train=3264, epochs=1, rates={"LoRA r=8": 2e-3, "full": 1e-4}),
    ),
    full=dict(
        model="bert-base-uncased",
        data="stanfordnlp/imdb",
        train=None,
        test=None,
        validation=None,
        max_length=512,
        epochs=2,
        batch=16,
        learning_rate=3e-4,
        comparison=dict(train=None, epochs=2, rates={"LoRA r=8": 3e-4, "full": 3e-5}),
    ),
)
print(describe_device(device))
print(f"profile {current_profile()}: {settings}")

# %% [markdown]
# ## The data, and what padding costs
#
# A batch is a rectangle of token ids; sentences are not. Something must fill the gaps, and every filled cell costs as much computation as a
# word. Let us look at the lengths first.

# %%
splits = load_reviews(settings["data"])
for name, split in splits.items():
    splits[name] = split.select(range(settings[name] or len(split)))
seed_everything(0)
model, tokenizer = load_encoder(settings["model"])
train = tokenize_reviews(splits["train"], tokenizer, settings["max_length"])
lengths = torch.tensor([len(ids) for ids in train["input_ids"]])

fig, ax = plt.subplots(figsize=(7, 3.2))
width = max(1, int(lengths.max()) // 60)  # whole tokens, or bins would hold one length or two by turns
ax.hist(lengths.numpy(), bins=range(0, int(lengths.max()) + width + 1, width), color="#0072B2")
ax.axvline(
    lengths.float().mean(),
    color="#D55E00",
    linestyle="--",
    label=f"mean {lengths.float().mean():.1f}",
)
ax.set(
    xlabel="tokens in a sentence",
    ylabel="number of sentences",
    title="Training sentences by length",
)
ax.legend()
plt.show()

# %% [markdown]
# ## Bug lab · Paying for padding
#
# Plenty of tutorials tokenize with `padding=True` inside `dataset.map(..., batched=True)`. `map` hands over 1 000 texts at a time, so every
# sentence is padded to the longest of its thousand, for ever, and the collator has nothing left to save.
#
# **Predict.** What share of all cells is padding (a) that way, (b) when each training batch of 16 is padded on its own, (c) when the
# batches are also made of sentences of similar length?
#
# **Run.**

# %% tags=["nbval-check-output"]
from lora_course.training.batching import length_bucketed_batches


def padding_share(groups: list[torch.Tensor]) -> float:
    """Share of cells that are padding, if each group of lengths is padded to its longest."""
    cells = sum(len(group) * int(group.max()) for group in groups)
    return 1 - sum(int(group.sum()) for group in groups) / cells


in_order = [
    lengths[list(b)]
    for b in length_bucketed_batches(lengths.tolist(), settings["batch"], seed=0, epoch=0)
]
print(
    f"(a) padded in map, 1 000 at a time : {padding_share(list(lengths.split(1000))):5.1%} of all cells are padding"
)
print(
    f"(b) each batch of {settings['batch']} on its own    : {padding_share(list(lengths.split(settings['batch']))):5.1%}"
)
print(f"(c) and sentences of similar length: {padding_share(in_order):5.1%}")

# %% [markdown]
# **Explain.** One long sentence in a thousand sets the width for all of them. On long reviews, with a limit of 512 tokens, it is worse still.
# The result is *right*, since the mask hides padding; it is only slow, and so nobody notices.
#
# **Fix.** Tokenize without padding, and pad each batch when it is made. That is the first part you build.

# %% [markdown]
# ## Exercise 04.1 · Pad the batch, not the data set
#
# ★★ · 15 minutes
#
# Write `pad_batch(examples, pad_token_id)`. Each example is a dictionary with `input_ids` (a list) and `labels` (0 or 1). Return a dictionary
# of three int64 tensors: `input_ids` and `attention_mask` of shape (batch, longest), and `labels` of shape (batch,). Pad on the right; the
# mask is 1 on tokens and 0 on padding. Leave the examples as they are.
#
# <details><summary>Nudge</summary>
#
# First find the longest sentence of *this* batch. Every row gets as many pad tokens as it lacks.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `row + [pad_token_id] * (longest - len(row))` makes a new list. `+=` would change the data set itself.
#
# </details>
# <details><summary>Outline</summary>
#
# Two lists of lists (ids, masks), built in one loop, then `torch.tensor` on both and on the list of labels.
#
# </details>


# %% exercise="04.1"
def pad_batch(examples: list[dict], pad_token_id: int) -> dict[str, torch.Tensor]:
    """input_ids (B, L), attention_mask (B, L) and labels (B,), padded on the right to the longest example."""
    ### BEGIN SOLUTION
    longest = max(len(example["input_ids"]) for example in examples)
    ids, masks = [], []
    for example in examples:
        row = example["input_ids"]
        missing = longest - len(row)
        ids.append(row + [pad_token_id] * missing)
        masks.append([1] * len(row) + [0] * missing)
    labels = [example["labels"] for example in examples]
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(masks),
        "labels": torch.tensor(labels),
    }
    ### END SOLUTION


# %% check="04.1"
pad_batch = check("04.1", pad_batch)

# %% [markdown]
# ## Exercise 04.2 · Accuracy and F1
#
# ★★ · 15 minutes
#
# Write `score(logits, labels)` that returns accuracy and F1 as fractions. The predicted class is the larger of the two logits; F1 is that of
# class 1, the harmonic mean of precision and recall:
#
# $$\text{precision} = \frac{TP}{TP + FP} \qquad \text{recall} = \frac{TP}{TP + FN} \qquad F_1 = \frac{2\,TP}{2\,TP + FP + FN}$$
#
# If nothing is positive and nothing was called positive, say 0.
#
# <details><summary>Nudge</summary>
#
# `logits.argmax(-1)` gives the predicted classes; comparisons give boolean tensors, which you can sum.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# True positives: predicted 1 **and** labelled 1. Count the other two in the same way.
#
# </details>
# <details><summary>Outline</summary>
#
# Accuracy is the mean of "predicted equals label". F1 needs three counts and one guard against 0 / 0.
#
# </details>


# %% exercise="04.2"
def score(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """logits (N, 2), labels (N,) -> accuracy and the F1 of class 1, as fractions."""
    ### BEGIN SOLUTION
    predicted = logits.argmax(-1)
    accuracy = (predicted == labels).float().mean().item()
    tp = ((predicted == 1) & (labels == 1)).sum().item()
    fp = ((predicted == 1) & (labels == 0)).sum().item()
    fn = ((predicted == 0) & (labels == 1)).sum().item()
    f1 = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0
    return accuracy, f1
    ### END SOLUTION


# %% check="04.2"
score = check("04.2", score)

# %% [markdown]
# ## Exercise 04.3 · Warm up, then decay
#
# ★★ · 10 minutes
#
# Adam's first steps are its wildest: its averages have seen almost nothing yet. So the learning rate starts at 0, climbs in a line for
# `warmup_steps`, then falls in a line to 0 at `total_steps`. Write `learning_rate_factor(step, total_steps, warmup_steps)`: the
# factor between 0 and 1 at a step. It must also work without warm-up.
#
# <details><summary>Nudge</summary>
#
# Two straight lines that meet at (warmup_steps, 1).
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# The second one measures its progress from the *end* of the warm-up: how much of `total_steps - warmup_steps` is left?
#
# </details>
# <details><summary>Outline</summary>
#
# If step < warmup_steps, return step / warmup_steps; otherwise (total_steps - step) / (total_steps - warmup_steps).
#
# </details>


# %% exercise="04.3"
def learning_rate_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """The factor on the learning rate at this step: 0 -> 1 over the warm-up, then 1 -> 0."""
    ### BEGIN SOLUTION
    if step < warmup_steps:
        return step / warmup_steps
    return (total_steps - step) / max(1, total_steps - warmup_steps)
    ### END SOLUTION


# %% check="04.3"
learning_rate_factor = check("04.3", learning_rate_factor)

# %% [markdown]
# ## Exercise 04.4 · A big batch in small pieces
#
# ★★★ · 15 minutes
#
# Memory holds four sentences, but you want the gradient of sixteen. Because gradients add up in `p.grad`, you can have it: run the pieces one
# after the other and call `backward()` on each. The catch is in the averaging.
#
# Write `accumulate(model, inputs, targets, pieces)`: leave in `p.grad` the gradient of the **mean** cross entropy over *all* inputs, while
# running one piece of `inputs.chunk(pieces)` at a time. The last piece may be smaller.
#
# <details><summary>Nudge</summary>
#
# Ten examples in four pieces: 3, 3, 3 and 1. If each piece's mean counts the same, the last example weighs three times as much as any other.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `F.cross_entropy(..., reduction="sum")` adds the losses up instead of averaging them.
#
# </details>
# <details><summary>Outline</summary>
#
# For each pair of chunks: the summed loss divided by the number of *all* examples, then `backward()`. No `zero_grad` in between.
#
# </details>


# %% exercise="04.4"
def accumulate(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, pieces: int) -> None:
    """Leave the gradient of the mean cross entropy over all inputs in p.grad, one chunk at a time."""
    ### BEGIN SOLUTION
    for x, y in zip(inputs.chunk(pieces), targets.chunk(pieces), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / len(inputs)
        loss.backward()
    ### END SOLUTION


# %% check="04.4"
accumulate = check("04.4", accumulate)

# %% [markdown]
# ## The real run
#
# All parts together: your padding, your schedule, a loop that clips gradients, evaluates on the validation split and shows its progress. Every
# linear layer of the encoder gets a rank-8 update; the head is new and trained whole.
#
# One thing is new. A few thousand sentences are not many, and a model of this size begins to learn them by heart in the second pass. *R-Drop*
# (Liang et al. 2021) works against that: each batch goes through the model twice, dropout makes the two answers differ, and the loss asks
# them to agree. It costs two passes a step. Whether it is worth that is a fair question, and one line to answer: leave `loss=r_drop(4.0)` out.

# %%
lora = AdapterConfig(
    rank=8, alpha=16, target_modules=["query", "key", "value", "dense"], trainable=["classifier"]
)
inject(model, lora).to(device)
lora_report = parameter_report(model)
lora_report


# %%
def collate(examples):
    return pad_batch(examples, tokenizer.pad_token_id)


def fine_tune(model, data, learning_rate, epochs, name, **options):
    """Train with your parts; returns the history and the result on the test split."""
    return train_sentiment(
        model,
        tokenizer,
        data,
        TrainingConfig(
            epochs=epochs, batch_size=settings["batch"], learning_rate=learning_rate, seed=0
        ),
        max_length=settings["max_length"],
        collate=collate,
        schedule=lambda step, total, warmup, kind: learning_rate_factor(step, total, warmup),
        name=name,
        **options,
    )


best_history, best_result = fine_tune(
    model,
    splits,
    settings["learning_rate"],
    settings["epochs"],
    "LoRA r=8, R-Drop",
    loss=r_drop(4.0),
)
print(best_history)
print(best_result)

# %% [markdown]
# Is *your* `score` of the same opinion as the package? It sees the logits of the test split, one batch at a time.

# %%
test = tokenize_reviews(splits["test"], tokenizer, settings["max_length"])
model.eval()
with torch.no_grad():
    outputs = [
        (model(**{k: v.to(device) for k, v in batch.items()}).logits.cpu(), batch["labels"])
        for batch in DataLoader(test, batch_size=16, collate_fn=collate)
    ]
logits, labels = (torch.cat(parts) for parts in zip(*outputs, strict=True))
accuracy, f1 = score(logits, labels)
print(
    f"your score: accuracy {accuracy:.4f}, F1 {f1:.4f}; the package's: {best_result.accuracy:.4f}, {best_result.f1:.4f}"
)
assert math.isclose(accuracy, best_result.accuracy, abs_tol=2 / len(labels))
assert math.isclose(f1, best_result.f1, abs_tol=4 / len(labels))

# %% [markdown]
# ## The other side: full fine-tuning
#
# Now every parameter is trained. That is the dearer side, so on a CPU both sides get a smaller budget, and **the same** one: half of the sentences,
# once, in the same order, one forward pass a step. The run above had more of everything; setting it against this one would be an easy
# way to make LoRA look good.
#
# One setting must differ. Full fine-tuning wants a far lower learning rate, and comparing both at the same rate would be another easy way
# to make either look bad. On the packaged encoder, both rates are the better of two, a factor of two apart, by validation loss with this seed.

# %%
budget = settings["comparison"]
less = dict(splits)
if budget["train"]:
    less["train"] = splits["train"].select(range(budget["train"]))
runs = {"LoRA, more budget": (lora_report, best_history, best_result)}
for name, learning_rate in budget["rates"].items():
    seed_everything(0)
    model, _ = load_encoder(settings["model"])
    if name != "full":
        inject(model, lora)
    model.to(device)
    history, result = fine_tune(model, less, learning_rate, budget["epochs"], name)
    runs[name] = parameter_report(model), history, result
    print(history)
    print(result)

# %% [markdown]
# ## What did we pay, and what did we get?

# %%
print(
    f"{'':17s} {'trained':>12s} {'share':>8s} {'optimizer':>10s} {'seconds':>8s} {'accuracy':>9s} {'F1':>6s}"
)
for name, (parameters, history, result) in runs.items():
    optimizer_mib = (
        2 * 4 * parameters.trainable / 2**20
    )  # AdamW keeps two float32 numbers a trained parameter
    print(
        f"{name:17s} {parameters.trainable:12,d} {parameters.percent:7.2f}% {optimizer_mib:6.1f} MiB "
        f"{history.summary.seconds:8.0f} {result.accuracy:9.3f} {result.f1:6.3f}"
    )
n = len(splits["test"])
accuracy = {name: result.accuracy for name, (*_, result) in runs.items()}
error = math.sqrt(accuracy["full"] * (1 - accuracy["full"]) / n)
print(f"\non {n} test sentences, one seed; the standard error of an accuracy is {error:.3f}")
for one, other in (("full", "LoRA r=8"), ("LoRA, more budget", "LoRA r=8")):
    gap = accuracy[one] - accuracy[other]
    print(
        f"{one} minus {other}: {gap:+.3f}, that is {abs(gap) / (math.sqrt(2) * error):.1f} standard errors of a difference"
    )

# %% [markdown]
# Read it soberly. A difference of less than two standard errors says nothing about which is better: one seed and this many sentences cannot
# tell. What is *not* in doubt is the third column of costs: the optimizer's state, and the size of what you save and ship. The seconds differ
# far less than the parameters do, since the forward pass is the same and the backward pass still walks through every layer. (On an AMD processor with
# AVX-512 a good part of LoRA's lead in seconds is a faster library for products, which only the package's own layers use: lesson 09.)
#
# What R-Drop and more passes bring full fine-tuning is for you to measure, if you have the time or a GPU: give `fine_tune` the budget of the first run.

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6))
styles = {"LoRA, more budget": ("#009E73", ":"), "LoRA r=8": ("#0072B2", "-"), "full": ("#D55E00", "--")}
for name, (_, history, _) in runs.items():
    color, line = styles[name]
    if name != "LoRA, more budget":  # its loss is another one
        losses = torch.tensor([row.loss for row in history.steps])
        window = max(1, len(losses) // 20)
        axes[0].plot(losses.unfold(0, window, 1).mean(1), color=color, linestyle=line, label=name)
    epochs = [row.epoch for row in history.evaluations]
    accuracies = [row.metrics["accuracy"] for row in history.evaluations]
    axes[1].plot(epochs, accuracies, "o", color=color, linestyle=line, label=name)
axes[0].set(xlabel="optimizer step", ylabel="training loss (nats), running mean", title="Training, same budget")
axes[1].set(xlabel="epoch", ylabel="accuracy", title="Validation split")
axes[1].xaxis.get_major_locator().set_params(integer=True)
for ax in axes:
    ax.legend()
fig.tight_layout()
plt.show()

# %% [markdown]
# ## Taking a claim apart
#
# You will read results such as "fine-tuned BERT with LoRA, 95.2 % fewer parameters". Is that good? Let us count, on the real shape of
# bert-base-uncased, without downloading or even allocating it: on PyTorch's `meta` device a tensor has a shape and no memory.

# %% tags=["nbval-check-output"]
from transformers import BertConfig, BertForSequenceClassification

with torch.device("meta"):
    bert = BertForSequenceClassification(BertConfig())
total = sum(p.numel() for p in bert.parameters())
print(f"bert-base with 2 labels: {total:,} parameters")
for rank in (8, 64, 142):
    with torch.device("meta"):
        adapted = BertForSequenceClassification(BertConfig())
        inject(
            adapted,
            AdapterConfig(rank=rank, target_modules=["query", "value"], trainable=["classifier"]),
        )
    adapters_only = parameter_report(adapted).rows[0].trainable
    print(
        f"LoRA r={rank:3d} on query and value: {adapters_only:9,d} trained, a reduction of {100 * (1 - adapters_only / total):.2f} %"
    )

# %% [markdown]
# At rank 8 the reduction is far beyond 95.2 %; to get as *low* as 95.2 % you would need a rank well over a hundred. A claim that
# sounds impressive may describe a wasteful setting, or a number nobody computed. Compute it.
#
# ## Self-test
#
# <details><summary>1. Your LoRA run is stuck at 50 % accuracy, and the loss at 0.69. Name three suspects.</summary>
#
# The head is frozen (`trainable` forgotten); the learning rate is far too high (a model can collapse to chance and stay there) or too
# low; the labels are shuffled against the texts, or the mask is wrong.
#
# </details>
# <details><summary>2. Why does the loop choose by the validation split, when the test split is larger?</summary>
#
# Because the test split is for the number you report. Choosing the best epoch by it would make that number too good.
#
# </details>
# <details><summary>3. LoRA trained less than 2 % of the parameters. Why was the step not 50 times faster?</summary>
#
# Forward is unchanged, and backward still carries gradients through all layers to reach the first adapter. Only the gradients of
# the frozen weights, and the optimizer's work on them, fall away.
#
# </details>
#
# ## Reading
#
# - Hu et al. 2021, [LoRA](https://arxiv.org/abs/2106.09685): tables 2 and 3 compare with full fine-tuning on real tasks.
# - Houlsby et al. 2019, [Parameter-Efficient Transfer Learning for NLP](https://arxiv.org/abs/1902.00751): the same trade, one
#   idea earlier.
# - Liang et al. 2021, [R-Drop](https://arxiv.org/abs/2106.14448): why two dropouts are better than one.
# - Devlin et al. 2018, [BERT](https://arxiv.org/abs/1810.04805): appendix A.3 has the ranges from which the `full` profile takes batch size, rate and epochs.
