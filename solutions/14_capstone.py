# %% [markdown]
# # 14 · The capstone
#
# **The question.** From a memory budget to a model that somebody else can open, and a number that they can believe: what does it take?
#
# **What you will be able to do**
# - choose a method, a rank and a batch that fit a budget, before you load anything;
# - compare candidates on a validation split, and say whether a difference is one;
# - hand over a fine-tuned model: save it, open it in PEFT, merge it, and know what merging buys;
# - spot three classic ways to report or hand over something that is not there;
# - write a report, and a model card, in which no number is typed by hand.
#
# **Time and memory.** About 100 minutes, most of them yours: the cells take about two minutes on two CPU cores (three small training runs), and
# about 2 GiB of memory.

# %%
import copy
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lora_course import (
    AdapterConfig,
    eject,
    inject,
    load_adapter,
    make_optimizer,
    merge,
    parameter_report,
    save_adapter,
)
from lora_course.assets import load_encoder, load_reviews
from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.experiments.report import Candidate, FineTuneReport, Measured, model_card
from lora_course.memory import measure, plan
from lora_course.teaching.exercises import check
from lora_course.teaching.profiles import by_profile, current_profile
from lora_course.training.batching import example_lengths, pad_collate, sorted_batches
from lora_course.training.config import TrainingConfig
from lora_course.training.loop import fit
from lora_course.training.metrics import synchronize
from lora_course.training.sentiment import tokenize_reviews

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
MIB, GIB = 2**20, 2**30
SEED = 0
device = choose_device()
settings = by_profile(
    smoke=dict(model="packaged", data="rotten_tomatoes", train=32, practice=40, small=20, test=40, length=64, budget=256 * MIB),
    cpu=dict(model="packaged", data="rotten_tomatoes", train=1200, practice=1000, small=150, test=1500, length=64, budget=256 * MIB),
    full=dict(model="bert-base-uncased", data="stanfordnlp/imdb", train=15000, practice=2000, small=150, test=10000, length=512, budget=10 * GIB),
)
BATCH, LENGTH, BUDGET = 16, settings["length"], settings["budget"]
print(describe_device(device))
print(f"profile {current_profile()}: {settings}")

# %% [markdown]
# ## What fits?
#
# Here is the assignment. Somebody wants to know whether a review is kind, and gives you a machine with a fixed amount of memory for the training step: weights,
# gradients, optimizer and everything that backward needs. You choose the method. Lesson 09 taught you what a step keeps, so you need no trial and error: `plan`
# runs the model's own code on tensors without contents and counts. It speaks of the second step and all after it, which are dearer than the first, because the
# optimizer's state is there from the beginning.

# %%
seed_everything(SEED)
untouched, tokenizer = load_encoder(settings["model"], base_dropout=0.0)
architecture = untouched.config


def needs(adapter: AdapterConfig | None, batch: int = BATCH, **more) -> int:
    """Bytes that a training step of our encoder needs."""
    return plan(architecture, adapter, batch=batch, sequence=LENGTH, **more).peak


def everywhere(rank: int, method: str = "lora") -> AdapterConfig:
    return AdapterConfig(method, rank, alpha=2 * rank, target_modules="all-linear", trainable=["classifier"])


def attention_only(rank: int) -> AdapterConfig:
    return AdapterConfig(rank=rank, alpha=2 * rank, target_modules=["query", "value"], trainable=["classifier"])


options = {
    "full fine-tuning": needs(None),
    "full, blocks checkpointed": needs(None, checkpointing=True),
    "DoRA r=8, all linear": needs(everywhere(8, "dora")),
    "LoRA r=64, all linear": needs(everywhere(64)),
    "LoRA r=8, all linear": needs(everywhere(8)),
    "LoRA r=8, query and value": needs(attention_only(8)),
    "LoRA r=8, all, checkpointed": needs(everywhere(8), checkpointing=True),
}
print(f"{BATCH} x {LENGTH} tokens, float32, AdamW; budget {BUDGET / MIB:.0f} MiB")
for name, size in options.items():
    print(f"{name:28s} {size / MIB:7.1f} MiB  {'fits' if size <= BUDGET else 'does not fit'}")

# %%
fig, ax = plt.subplots(figsize=(7, 3.4))
names = list(options)[::-1]
ax.barh(names, [options[n] / MIB for n in names], color=[BLUE if options[n] <= BUDGET else ORANGE for n in names])
ax.axvline(BUDGET / MIB, color="black", linestyle="--", label=f"budget, {BUDGET / MIB:.0f} MiB")
for y, name in enumerate(names):
    ax.text(4, y, "fits" if options[name] <= BUDGET else "does not fit", color="white", va="center", fontsize=9)
ax.set(xlabel="peak of a training step, planned (MiB)", title="Which of these may we train?")
ax.legend(loc="lower right")
fig.tight_layout()
plt.show()

# %% [markdown]
# Checkpointing does not rescue full fine-tuning: its peak is in the optimizer's step, where no activation is left to give up. And DoRA at rank 8 needs more than LoRA at rank 64, because it
# keeps more for backward. What fits is a question for a calculation, not for a feeling.
#
# Now the finer question: *which* rank fits? Every plan takes some tenths of a second, for a large model seconds, so trying each rank is slow. But there is an order to exploit: a larger rank
# never needs less.
#
# ## Exercise 14.1 · The largest that fits
#
# ★★ · 15 minutes
#
# Write `largest_that_fits(bytes_of, budget, most)`: the largest whole number n from 1 to `most` for which `bytes_of(n) <= budget`, and 0 if there is none. `bytes_of` never falls as n grows, and
# is slow: ask it about as often as one must ask to find a word in a dictionary by opening it in the middle.
#
# <details><summary>Nudge</summary>
#
# Keep two numbers: one that is known to fit, and one that is known not to.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# At the start 0 "fits" and `most + 1` "does not", without asking. Ask about the middle, and one of the two moves there.
#
# </details>
# <details><summary>Outline</summary>
#
# While the two are more than 1 apart: middle = their sum // 2; if bytes_of(middle) <= budget, the fitting one becomes middle, otherwise the other one does. Return the fitting one.
#
# </details>


# %% exercise="14.1"
def largest_that_fits(bytes_of, budget: int, most: int) -> int:
    """The largest n in 1..most with bytes_of(n) <= budget, or 0; asks about log2(most) times."""
    ### BEGIN SOLUTION
    fits, too_large = 0, most + 1
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if bytes_of(middle) <= budget:
            fits = middle
        else:
            too_large = middle
    return fits
    ### END SOLUTION


# %% check="14.1"
largest_that_fits = check("14.1", largest_that_fits)

# %% [markdown]
# The same function answers for any number that only makes things larger: rank, batch, length. Your budget, and then a famous one: a model of eight billion parameters on one card of 24 GiB, with
# texts of 1024 tokens, LoRA of rank 16 on all linear layers.

# %%
rank_everywhere = largest_that_fits(lambda r: needs(everywhere(r)), BUDGET, 128)
rank_attention = largest_that_fits(lambda r: needs(attention_only(r)), BUDGET, 128)
batch_checkpointed = largest_that_fits(lambda b: needs(everywhere(8), batch=b, checkpointing=True), BUDGET, 256)
print(f"within {BUDGET / MIB:.0f} MiB, {LENGTH} tokens:")
print(f"  LoRA on all linear layers, batch {BATCH}: up to rank {rank_everywhere}")
print(f"  LoRA on query and value, batch {BATCH}: up to rank {rank_attention} (128 is as far as we asked)")
print(f"  LoRA r=8 on all linear layers, blocks checkpointed: batches of up to {batch_checkpointed}")

# %% tags=["nbval-check-output"]
card = 24 * GIB


def llama(batch: int, **how) -> int:
    return plan("llama-3-8b", AdapterConfig(rank=16), batch=batch, sequence=1024, dtype=torch.bfloat16, **how).peak


four_bits = dict(quantization="nf4-double", adapter_dtype=torch.float32)
print("llama-3-8b, LoRA r=16 on all linear layers, one text of 1024 tokens, planned:")
for name, how in {
    "base in bfloat16": {},
    "base in NF4, double quantization": four_bits,
    "the same, blocks checkpointed": four_bits | dict(checkpointing=True),
}.items():
    print(f"  {name:34s} {llama(1, **how) / GIB:5.1f} GiB")
largest = largest_that_fits(lambda batch: llama(batch, checkpointing=True, **four_bits), card, 15)
print(f"of the last, up to {largest} texts at once in {card / GIB:.0f} GiB")

# %% [markdown]
# (A plan sees the tensors, not what single operations need inside themselves, nor what a GPU's runtime takes for itself. Leave room: lesson 09 says what is not counted.)
#
# Is the plan to be trusted? The step that we are about to take, weighed:

# %%
model, _ = load_encoder(settings["model"], base_dropout=0.0)
inject(model, everywhere(8)).to(device).train()
ids = torch.ones(BATCH, LENGTH, dtype=torch.long)
mask = torch.ones_like(ids)
mask[0, -1] = 0  # one token of padding, so that the model builds its mask
batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.ones(BATCH, dtype=torch.long)}
weighed = measure(model, {name: t.to(device) for name, t in batch.items()}).peak
planned = needs(everywhere(8))
print(f"planned {planned / MIB:.2f} MiB, weighed {weighed / MIB:.2f} MiB, off by {abs(planned - weighed) / weighed:.2%}")
parameter_report(model)

# %% [markdown]
# ## What must it beat?
#
# Before the first training step, decide what the result will be compared with. "Better than guessing" is cheap. A fair opponent is what the encoder can do *without* fine-tuning: take its
# average output for a sentence, and train nothing but a straight line through those numbers. That is called a *linear probe*. It costs one forward pass for each sentence.
#
# Also decide now which sentences judge. The validation split chooses between candidates; the test split stays closed until one cell, near the end, opens it once. For experiments on the way
# there is a practice set, cut from training sentences that we do not train on.

# %%
reviews = load_reviews(settings["data"])
n_train, n_practice = settings["train"], settings["practice"]
parts = {
    "train": reviews["train"].select(range(n_train)),
    "practice": reviews["train"].select(range(n_train, n_train + n_practice)),
    "validation": reviews["validation"],
    "test": reviews["test"].select(range(min(settings["test"], len(reviews["test"])))),
}
if current_profile() == "smoke":
    parts["validation"] = parts["validation"].select(range(60))
tokens = {part: tokenize_reviews(data, tokenizer, LENGTH) for part, data in parts.items()}
labels = {part: torch.tensor(data["labels"]) for part, data in tokens.items()}
print({part: len(data) for part, data in parts.items()})


def collate(examples):
    return pad_collate(examples, tokenizer.pad_token_id)


@torch.no_grad()
def outputs(run, part: str) -> torch.Tensor:
    """run(batch) for all sentences of a part, in their order."""
    found = []
    order = sorted_batches(example_lengths(tokens[part]), 64)
    for indices in order:
        batch = {name: t.to(device) for name, t in collate([tokens[part][i] for i in indices]).items() if name != "labels"}
        found.append(run(batch).cpu())
    return torch.cat(found)[torch.tensor([i for indices in order for i in indices]).argsort()]


untouched.to(device).eval()


def mean_state(batch):
    """The encoder's last hidden states, averaged over the tokens: (B, d)."""
    states, mask = untouched.base_model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
    return (states * mask).sum(1) / mask.sum(1)


features = {part: outputs(mean_state, part) for part in ("train", "practice")}


def probe(chosen: torch.Tensor, seed: int):
    """A straight line, trained on these training sentences; returns features (n, d) -> predicted labels (n,)."""
    x, y = features["train"][chosen], labels["train"][chosen]
    mean, spread = x.mean(0), x.std(0)
    seed_everything(seed)
    line = torch.nn.Linear(x.shape[1], 2)
    optimizer = torch.optim.AdamW(line.parameters(), lr=1e-2, weight_decay=10.0)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(line((x - mean) / spread), y).backward()
        optimizer.step()
    return lambda x: line((x - mean) / spread).argmax(-1)


# %% [markdown]
# ## Bug lab · The best of twenty seeds
#
# "We ran twenty seeds and report the best." Here are twenty probes. Each sees another random half of the training sentences; otherwise they are the same. All are judged on
# the same small part of the practice set, and the best one is reported.

# %%
small = settings["small"]
accuracy = []
for seed in range(20):
    half = torch.randperm(n_train, generator=torch.Generator().manual_seed(seed))[: n_train // 2]
    correct = (probe(half, seed)(features["practice"]) == labels["practice"]).float()
    accuracy.append((correct[:small].mean().item(), correct[small:].mean().item()))
on_small, on_rest = (torch.tensor(values) for values in zip(*accuracy, strict=True))

# %% [markdown]
# **Predict.** Twenty accuracies scatter about their mean. How far above it is the best of them, on so few sentences? And where does that very probe come out on the rest of
# the practice set, which nobody looked at to choose it?
#
# **Run.**

# %%
best = int(on_small.argmax())
rest = n_practice - small
print(f"on {small} sentences: mean of 20 seeds {on_small.mean():.3f}, best {on_small[best]:.3f} (seed {best})")
print(f"on the other {rest}: mean of 20 seeds {on_rest.mean():.3f}, that same seed {on_rest[best]:.3f}")
gain, kept = on_small[best] - on_small.mean(), on_rest[best] - on_rest.mean()
print(f"above the mean by {100 * gain:+.1f} points where it was chosen, by {100 * kept:+.1f} where it was not")

fig, ax = plt.subplots(figsize=(7, 3.4))
order = on_small.argsort()
ax.plot(on_small[order], "o", color=ORANGE, label=f"on the {small} sentences that choose")
ax.plot(on_rest[order], "s", color=BLUE, markerfacecolor="none", label=f"on the other {rest}")
ax.axhline(on_small.mean(), color=ORANGE, linestyle="--", linewidth=1)
ax.axhline(on_rest.mean(), color=BLUE, linestyle=":", linewidth=1)
ax.annotate("reported", (19, on_small[best]), (15.2, float(on_small[best])), va="center", arrowprops={"arrowstyle": "->"})
ax.set(
    xlabel="probes, sorted by the accuracy that chooses",
    ylabel="accuracy",
    title="Twenty seeds; lines: their means",
    xticks=range(0, 20, 5),
)
ax.legend(loc="upper left")
fig.tight_layout()
plt.show()

# %% [markdown]
# **Explain.** Each accuracy is the truth plus luck. Choosing the largest of twenty chooses luck, and the more seeds you run the more of it you find. On fresh sentences the luck is
# gone, and all of the gain with it. It is the same with twenty settings, twenty checkpoints, or twenty looks at the test split in the course of a project.
#
# **Fix.** Choose on one split, report another. And report what another seed would have given: mean and spread.
#
# ## Exercise 14.2 · Many seeds, honestly
#
# ★ · 10 minutes
#
# Write `over_seeds(validation, test)`. Both are tensors with one accuracy for each seed. Return three numbers: the **test** accuracy of the seed that is best on **validation** (the first of them, if two
# are equal), and the mean and the standard deviation (with n − 1) of all test accuracies.
#
# <details><summary>Nudge</summary>
#
# One `argmax`, on one of the two. Which?
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# The model that you hand over was chosen by validation; what you say about it comes from test.
#
# </details>
# <details><summary>Outline</summary>
#
# test[validation.argmax()], test.mean(), test.std(): torch's std divides by n − 1 already.
#
# </details>


# %% exercise="14.2"
def over_seeds(validation: torch.Tensor, test: torch.Tensor) -> tuple[float, float, float]:
    """Both (seeds,): the test accuracy of the seed chosen on validation; mean and standard deviation of test."""
    ### BEGIN SOLUTION
    chosen = validation.argmax()
    return test[chosen].item(), test.mean().item(), test.std().item()
    ### END SOLUTION


# %% check="14.2"
over_seeds = check("14.2", over_seeds)

# %%
chosen_seed, mean, spread = over_seeds(on_small, on_rest)
print(f"the probe that {small} sentences chose: {chosen_seed:.3f} on {rest} others; over 20 seeds {mean:.3f} ± {spread:.3f}")

# %% [markdown]
# ## Three candidates
#
# One method is no choice, and a hundred are lesson 12. We take three that fit the budget, each at one learning rate, chosen without a search: every linear layer at the largest rank that fits; query and value at the largest we asked
# for; and rank 8 everywhere with LoRA+. Same sentences, same order, same seed, one pass.

# %%
recipes = {
    f"all linear, r={rank_everywhere}": (everywhere(rank_everywhere), 1e-3, "adamw"),
    f"query and value, r={rank_attention}": (attention_only(rank_attention), 1e-3, "adamw"),
    "all linear, r=8, LoRA+": (everywhere(8), 3e-4, "lora_plus"),
}


def train(name: str):
    """A fresh model, trained; returns it with its history."""
    adapter, learning_rate, optimizer = recipes[name]
    seed_everything(SEED)
    model, _ = load_encoder(settings["model"], base_dropout=0.0)
    inject(model, adapter).to(device)
    history = fit(
        model,
        tokens["train"],
        collate,
        TrainingConfig(batch_size=BATCH, learning_rate=learning_rate, seed=SEED),
        optimizer=make_optimizer(model, learning_rate, optimizer),
        dataset=f"{settings['data']}, {n_train} for training",
        name=name,
        progress=False,
    )
    return model.eval(), history


def right(model, part: str) -> torch.Tensor:
    """Whether each sentence of a part is answered correctly, (n,) bool."""
    model.eval()
    return outputs(lambda batch: model(**batch).logits, part).argmax(-1) == labels[part]


models, histories, validated = {}, {}, {}
for name in recipes:
    models[name], histories[name] = train(name)
    validated[name] = right(models[name], "validation")
    print(f"{name:26s} {histories[name].summary.seconds:4.0f} s, validation accuracy {validated[name].float().mean():.3f}")

# %% [markdown]
# ## Is that a difference?
#
# An accuracy on n sentences has the standard error $\sqrt{p(1-p)/n}$: so much would other sentences move it. For the *difference* of two models one might add up the two errors' squares. But both models
# were asked the same sentences, and mostly agree: hard sentences are hard for both. What counts are the sentences on which they disagree. So look at the differences, sentence by sentence:
#
# $$d_i = a_i - b_i \in \{-1, 0, 1\} \qquad \bar d = \frac1n \sum_i d_i \qquad \text{error} = \sqrt{\frac1n \cdot \frac1n \sum_i (d_i - \bar d)^2}$$
#
# ## Exercise 14.3 · The error of a difference
#
# ★★ · 15 minutes
#
# Write `paired_difference(first, second)`. Both are boolean tensors (n,): whether each model answered sentence i correctly. Return the difference of the two accuracies, first minus second, and its
# standard error as above.
#
# <details><summary>Nudge</summary>
#
# Booleans cannot be subtracted: make numbers of them first.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# The spread of one d is a standard deviation (with n, not n − 1). The error of a *mean* of n of them is smaller by √n.
#
# </details>
# <details><summary>Outline</summary>
#
# d = first.double() − second.double(); return d.mean() and sqrt(((d − d.mean())²).mean() / n), both as floats.
#
# </details>


# %% exercise="14.3"
def paired_difference(first: torch.Tensor, second: torch.Tensor) -> tuple[float, float]:
    """first, second (n,) bool: difference of the accuracies, and its standard error on the same examples."""
    ### BEGIN SOLUTION
    d = first.double() - second.double()  # (n,): -1, 0 or 1
    difference = d.mean()
    error = ((d - difference).square().mean() / len(d)).sqrt()
    return difference.item(), error.item()
    ### END SOLUTION


# %% check="14.3"
paired_difference = check("14.3", paired_difference)

# %% [markdown]
# With it, a rule for choosing, made before we look: *of the candidates that are within one standard error of the best on validation, take the one that trains the fewest parameters.* A tie goes to the
# cheapest, not to the luckiest.

# %%
RULE = "of the candidates within one standard error of the best on the validation split, the one that trains the fewest parameters"
best = max(recipes, key=lambda name: validated[name].float().mean().item())
n_validation = len(labels["validation"])
close = []
print(f"behind the best, on {n_validation} validation sentences:")
for name in recipes:
    behind, error = paired_difference(validated[best], validated[name])
    p, q = validated[best].float().mean().item(), validated[name].float().mean().item()
    unpaired = ((p * (1 - p) + q * (1 - q)) / n_validation) ** 0.5
    close += [name] if behind <= error else []
    print(f"{name:26s} {behind:.3f} ± {error:.3f} (± {unpaired:.3f} if the pairs are forgotten)")
chosen = min(close, key=lambda name: histories[name].run.trainable_parameters)
print(f"\nwithin one standard error: {', '.join(close)}\nchosen: {chosen}")

# %% [markdown]
# ## The test split, once
#
# Everything is decided: the candidate, the opponent, the measure. One cell opens the test split, and it is not run a second time with another model.

# %%
features["test"] = outputs(mean_state, "test")
probe_right = probe(torch.arange(n_train), SEED)(features["test"]) == labels["test"]
model_right = right(models[chosen], "test")
difference, difference_error = paired_difference(model_right, probe_right)
test = Measured(f"LoRA ({chosen})", model_right.float().mean().item(), len(model_right))
baseline = Measured("linear probe, encoder untouched", probe_right.float().mean().item(), len(probe_right))
print(f"{baseline.name}: {baseline} (n = {baseline.n})")
print(f"{test.name}: {test} (n = {test.n})")
print(f"difference {difference:+.3f} ± {difference_error:.3f}: {abs(difference) / max(difference_error, 1e-9):.1f} standard errors")

# %% [markdown]
# ## Hand it over
#
# `save_adapter` writes two files, in PEFT's format: what was trained, and how to put it where it belongs. The base is not in it; whoever opens it needs the same base. We do what a receiver would do: load a fresh base (whose
# head is a *different* random one, as theirs will be), open the files in PEFT, and compare the answers. Then once more with our own `load_adapter`.

# %%
from peft import PeftModel

warnings.filterwarnings("ignore", ".*is_gradient_checkpointing")  # PEFT reads an old name of transformers
handover = tempfile.TemporaryDirectory()
folder = Path(handover.name) / "adapter"
save_adapter(models[chosen], folder)
sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
base_bytes = sum(p.nbytes for p in untouched.parameters())
for name, size in sizes.items():
    print(f"{name:28s} {size / 1024:8.1f} KiB")
print(f"together {sum(sizes.values()) / base_bytes:.1%} of the base's {base_bytes / MIB:.0f} MiB")


def fresh_base(seed: int):
    """The base as somebody else has it: same encoder, another random head."""
    seed_everything(seed)
    return load_encoder(settings["model"], base_dropout=0.0)[0].to(device).eval()


sample = collate([tokens["validation"][i] for i in range(32)])
sample = {name: t.to(device) for name, t in sample.items() if name != "labels"}
in_peft = PeftModel.from_pretrained(fresh_base(seed=1), folder).eval()
in_ours = load_adapter(fresh_base(seed=2), folder).eval()
with torch.no_grad():
    reference = models[chosen](**sample).logits
    off_peft = (in_peft(**sample).logits - reference).abs().max().item()
    off_ours = (in_ours(**sample).logits - reference).abs().max().item()
print(f"largest difference in a logit: opened in PEFT {off_peft:.1e}, opened here {off_ours:.1e}")
assert off_peft < 1e-5 and off_ours < 1e-5

# %% [markdown]
# ## Bug lab · Two hand-overs that went wrong
#
# Both ran without an error, and both were noticed by the receiver.
#
# 1. The head was trained by hand: PEFT's config names the target layers and nothing else, and the classifier is made trainable afterwards. Training went well. Then `save_pretrained`.
# 2. The model was merged and saved whole, "to be safe", *and* the adapter was put beside it. The receiver loaded the one and then the other.


# %%
from peft import LoraConfig, get_peft_model


def head_by_hand():
    """1. The very same weights as ours, but the config knows nothing of the head."""
    named = in_peft.peft_config["default"]
    config = LoraConfig(r=named.r, lora_alpha=named.lora_alpha, target_modules=named.target_modules)
    model = get_peft_model(fresh_base(seed=0), config)
    model.base_model.model.classifier.requires_grad_(True)
    trained = {name: t for name, t in in_peft.state_dict().items() if "lora_" in name}  # "training went well"
    model.load_state_dict(trained, strict=False)
    model.base_model.model.classifier.load_state_dict(models[chosen].classifier.state_dict())
    return model.eval()


def merged_whole():
    """2. A plain model with the merged weights."""
    return eject(merge(copy.deepcopy(models[chosen])))


# %% [markdown]
# **Predict.** What will the receiver's accuracy on the validation split be in each case, if the sender's is the one above?
#
# **Run.**

# %%
sender = head_by_hand()
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    sender.save_pretrained(Path(handover.name) / "without_head")
    receiver = PeftModel.from_pretrained(fresh_base(seed=1), Path(handover.name) / "without_head").eval()
twice = load_adapter(merged_whole(), folder)
print(f"on {n_validation} validation sentences")
print(f"the sender's model              {validated[chosen].float().mean():.3f}")
print(f"1. head trained by hand, sender {right(sender, 'validation').float().mean():.3f}")
print(f"   the same file, receiver      {right(receiver, 'validation').float().mean():.3f}")
about_heads = [str(w.message) for w in said if "classifier" in str(w.message)]
print(f"   warnings about the head, in saving and loading: {len(about_heads)}")
print(f"2. merged base, then adapter    {right(twice, 'validation').float().mean():.3f}")
with torch.no_grad():
    print(f"   largest difference in a logit {(twice(**sample).logits - reference).abs().max():.2f}")

# %% [markdown]
# What does our library say to such a config, and to saving a model that is merged already?

# %%
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    inject(fresh_base(seed=0), AdapterConfig(rank=8, target_modules="all-linear"))
print(f"inject, without trainable=...: {said[0].message}")
try:
    save_adapter(merge(copy.deepcopy(models[chosen])), folder)
except ValueError as error:
    print(f"save_adapter, after merge: {error}")

# %% [markdown]
# **Explain.** (1) The file holds what the config speaks of. The head was not in it, so the receiver's is the random one of their fresh base: a trained encoder behind a random door. What comes out is an accident of that random head: with another seed it may lie
# above one half or far below it, where the two classes have changed places. (2) The change is in the weights already, and is added a second time: the update has twice its length. How much that hurts depends on how
# large the update is beside the base; that nothing *breaks* is what makes it hard to notice.
#
# **Fix.** Name the head: `trainable=["classifier"]` here, `modules_to_save` or `task_type="SEQ_CLS"` in PEFT. Hand over one thing, the adapter *or* the merged model, and say which. And do what the receiver will do, in a fresh base, before you say that it works: the cell above this
# lab is that test.
#
# ## Merge: what does it buy?
#
# Unmerged, each adapted layer does two small products more. Merged, it is a plain layer again. Same answers, to rounding; how much faster? The three take turns, so that a slow moment of the machine hits them all.

# %%
merged = merge(copy.deepcopy(models[chosen]))
with torch.no_grad():
    off_merged = (merged(**sample).logits - reference).abs().max().item()
assert_close(merged(**sample).logits, reference, rtol=1e-3, atol=1e-3)
contestants = {"adapter beside": models[chosen], "merged": merged, "plain model, no adapter": untouched}
rounds = by_profile(smoke=2, cpu=25, full=50)
latency = {}
for size in (1, 32):
    inputs = {name: t[:size] for name, t in sample.items()}
    taken = {name: [] for name in contestants}
    with torch.inference_mode():
        for number in range(rounds + 3):
            for name, model in contestants.items():
                synchronize(device)
                start = time.perf_counter()
                model(**inputs)
                synchronize(device)
                if number >= 3:
                    taken[name].append(time.perf_counter() - start)
    plain = taken["plain model, no adapter"]
    for name, times in taken.items():
        ratio = statistics.median(t / p for t, p in zip(times, plain, strict=True))
        latency[size, name] = (1000 * statistics.median(times), ratio)
        print(f"batch {size:2d}  {name:24s} {latency[size, name][0]:6.1f} ms, x {ratio:.2f} of the plain model's")
print(f"largest difference in a logit after merging: {off_merged:.1e}; median of {rounds} rounds, {describe_device(device)}")

# %% [markdown]
# Merging takes away the adapter's time, nothing else: the model is no smaller and no faster than it was before you began. Keep adapters beside the base where one base serves many of them; merge where one model
# serves many requests. And remember lesson 10: a base in 4 bits loses the adapter when merged and quantized again.
#
# ## The report
#
# Everything that has been computed goes into one object; it writes itself as Markdown. It refuses to exist without a baseline, a rule, or a list of what was *not* tried, because those are the parts
# that are left out when a report is written by hand.

# %%
tried = {
    name: Candidate(histories[name], Measured(name, validated[name].float().mean().item(), n_validation)) for name in recipes
}
report = FineTuneReport(
    title="Is this review kind? A LoRA fine-tune on a budget",
    question=f"Does fine-tuning within {BUDGET / MIB:.0f} MiB a step beat a linear probe on the same {n_train} training sentences? Accuracy on the test split, looked at once.",
    candidates=tried,
    chosen=chosen,
    rule=RULE,
    sizes={part: len(data) for part, data in parts.items() if part != "practice"},
    test=test,
    baseline=baseline,
    difference_error=difference_error,
    besides={
        "step planned": f"{needs(recipes[chosen][0]) / MIB:.1f} MiB for {BATCH} x {LENGTH} tokens; budget {BUDGET / MIB:.0f} MiB",
        "adapter file": f"{sizes['adapter_model.safetensors'] / MIB:.2f} MiB, the base not included",
        "opened in PEFT": f"largest difference in a logit {off_peft:.1e}",
        "merged": f"largest difference in a logit {off_merged:.1e}; a batch of 32 takes {latency[32, 'adapter beside'][1]:.2f} times the plain model's time unmerged, {latency[32, 'merged'][1]:.2f} merged",
    },
    not_tried=(
        "other seeds: every candidate was trained once, so nothing here says how much a seed changes",
        "other learning rates: each candidate had one, so the order of the three may be an order of learning rates",
        "more than one pass, or more sentences",
        "full fine-tuning, which does not fit the budget",
        "other kinds of text: the sentences are all from film reviews, in English",
    ),
)
report

# %% [markdown]
# The report says aloud what a table of scores keeps quiet: one seed, one learning rate each. If a difference matters to you, that list is your next week.
#
# ## Exercise 14.4 · What does the card leave out?
#
# ★★ · 20 minutes
#
# On a hub, the report is the `README.md` beside the files, with some lines for machines on top, the *front matter*. PEFT writes such a card for you, as a form to be filled in; many are published as they
# are. Write `gaps(card, fields)` that finds what is missing. Return one list:
#
# - first each name in `fields`, in that order, that the front matter lacks or leaves empty;
# - then each heading (its text without the #s), in the order of the card, whose own section contains `[More Information Needed]`. A section ends at the next heading of any level.
#
# The front matter stands between the card's first line, `---`, and the next line that is `---`; a card that starts with anything else has none. A field is there if a line starts with `name:`, and it is filled
# if something follows the colon (other than `[]`), or if the next line starts with `- `, as lists do.
#
# <details><summary>Nudge</summary>
#
# Cut the card into front matter and body first. A `license:` in the body is not metadata.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `line.partition(":")` gives name and value; compare the *whole* name. For the body, remember the last heading seen.
#
# </details>
# <details><summary>Outline</summary>
#
# lines = card.splitlines(). If lines[0] is "---", find the next "---": head between them, body after. Collect the filled names of the head in a set. Walk through the body: a line with # at its start sets the heading; a line with the
# placeholder appends it, if it is not the last one in the list already.
#
# </details>


# %% exercise="14.4"
def gaps(card: str, fields: list[str]) -> list[str]:
    """Fields that the front matter lacks or leaves empty, then headings with a placeholder in their section."""
    ### BEGIN SOLUTION
    lines = card.splitlines()
    head, body = [], lines
    if lines and lines[0] == "---" and "---" in lines[1:]:
        end = lines.index("---", 1)
        head, body = lines[1:end], lines[end + 1 :]
    filled = set()
    for line, following in zip(head, [*head[1:], ""], strict=False):
        name, colon, value = line.partition(":")
        if colon and (value.strip() not in ("", "[]") or (not value.strip() and following.startswith("- "))):
            filled.add(name)
    missing = [field for field in fields if field not in filled]
    heading, open_sections = "", []
    for line in body:
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
            noted = False
        elif "[More Information Needed]" in line and heading and not noted:
            open_sections.append(heading)
            noted = True
    return missing + open_sections
    ### END SOLUTION


# %% check="14.4"
gaps = check("14.4", gaps)

# %% [markdown]
# PEFT's form, and ours:

# %%
FIELDS = ["base_model", "library_name", "license", "language", "datasets", "metrics"]
in_peft.save_pretrained(Path(handover.name) / "as_peft_writes_it")
form = (Path(handover.name) / "as_peft_writes_it" / "README.md").read_text(encoding="utf-8")
hub_names = {"packaged": "sentence-transformers/all-MiniLM-L6-v2", "rotten_tomatoes": "cornell-movie-review-data/rotten_tomatoes"}
written = model_card(
    report,
    base_model=hub_names.get(settings["model"], settings["model"]),
    license="apache-2.0",  # of what you publish: yours to decide
    datasets=(hub_names.get(settings["data"], settings["data"]),),
)
(folder / "README.md").write_text(written, encoding="utf-8")
for name, text in {"the form that PEFT writes": form, "our card": written}.items():
    found = gaps(text, FIELDS)
    print(f"{name}: {len(found)} gaps" + (f", among them {', '.join(found[:6])} …" if found else ""))

# %% [markdown]
# ## Push
#
# Now the folder holds everything: adapter, config, card. Uploading it takes two calls. **They are not executed in this course**: they need a network and your token (`hf auth login` asks for it), and they publish under your
# name. What we can do here is hold the calls against the signatures of the library that is installed.


# %%
def push(folder: Path, repo: str, api) -> None:
    """Upload an adapter with its card; private until you decide otherwise."""
    api.create_repo(repo_id=repo, private=True, exist_ok=True)
    api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Adapter and card")


import inspect

from huggingface_hub import HfApi


class Rehearsal:
    """Takes calls as HfApi does, and sends nothing."""

    def __getattr__(self, name):
        def call(**arguments):
            inspect.signature(getattr(HfApi, name)).bind(self, **arguments)
            print(f"would call {name}({', '.join(arguments)})")

        return call


push(folder, "your-name/kind-reviews-lora", Rehearsal())
print("files:", ", ".join(path.name for path in sorted(folder.iterdir())))
handover.cleanup()

# %% [markdown]
# With `HfApi()` in place of `Rehearsal()` it is real. Whoever has the base then opens your adapter with `PeftModel.from_pretrained(base, "your-name/kind-reviews-lora")`, which is the line that ran above, with a folder. If the adapter
# was trained on data that may not be shared, or on private text, stop here: a few million numbers can remember sentences.
#
# ## Self-test
#
# <details><summary>1. Two models differ by two points on 500 test sentences. Is one better?</summary>
#
# It depends on how often they disagree. If they answer differently on 50 sentences, d is 0 on 450 of them, and the error is about √50 / 500 = 1.4 points: no verdict. If they disagree on 12 only, 11 to 1, the error is about
# 0.7 points, and there is one.
#
# </details>
# <details><summary>2. A colleague sends you a merged model and asks you to take the adapter out again. Can you?</summary>
#
# With the base at hand, yes: the difference of the weights is the update, to rounding, and an SVD gives B and A back (lesson 01). Without the base, no: nothing in the sum says which part was which.
#
# </details>
# <details><summary>3. Your plan says 23.5 GiB and the card has 24. Do you start the run?</summary>
#
# Not without room to spare. The plan counts tensors; the allocator's gaps, the scratch space of single operations and the runtime's own share come on top. Checkpoint some blocks, or take a smaller batch and accumulate.
#
# </details>
#
# ## Reading
#
# - Mitchell et al. 2018, [Model Cards for Model Reporting](https://arxiv.org/abs/1810.03993): what a card is for, and for whom.
# - Dodge et al. 2019, [Show Your Work](https://arxiv.org/abs/1909.03004): the expected best of n trials, as a curve: the twenty seeds of the bug lab, turned into an honest figure.
# - The relatives that the package has and no lesson builds: (IA)³ in Liu et al. 2022, [Few-Shot Parameter-Efficient Fine-Tuning](https://arxiv.org/abs/2205.05638); LoHa in Hyeon-Woo et al. 2021,
#   [FedPara](https://arxiv.org/abs/2108.06098); LoKr in Edalati et al. 2022, [KronA](https://arxiv.org/abs/2212.10650), and both in Yeh et al. 2023, [LyCORIS](https://arxiv.org/abs/2309.14859).
# - [Every arXiv paper that the course cites](../READING.md), in one table: what to read it for, and which lesson sends you there.
