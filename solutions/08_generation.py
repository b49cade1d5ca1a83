# %% [markdown]
# # 08 · Text generation
#
# **The question.** Can a laptop make a small language model write film reviews of the sentiment you ask for, and how would you prove it?
#
# **What you will be able to do**
# - train a language model on prompts and answers so that only the answers count;
# - report a perplexity that others can compare with, and say what it leaves out;
# - choose tokens by temperature and top p, and say which settings belong together;
# - choose a prompt by measuring it, and hold prompting with examples against fine-tuning;
# - put a number with an interval on "it writes positive reviews now", and know why half of that claim means nothing.
#
# **Time and memory.** About 110 minutes. The cells run for about four minutes on two CPU cores and need about 4.5 GiB of memory. With a GPU, or with
# `LORA_COURSE_PROFILE=full`, the same cells fine-tune gpt2-medium from the hub on all the training sentences.

# %%
import logging
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from lora_course import AdapterConfig, inject, parameter_report
from lora_course.assets import load_causal_lm, load_encoder, load_reviews
from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.teaching.exercises import check
from lora_course.teaching.profiles import by_profile, current_profile
from lora_course.training.batching import pad_collate
from lora_course.training.config import TrainingConfig
from lora_course.training.generation import conditioned_examples, evaluate_language_model
from lora_course.training.loop import fit
from lora_course.training.sampling import generate, generation_speed
from lora_course.training.sentiment import train_sentiment
from lora_course.training.steering import first_line, judge_texts

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
device = choose_device()
settings = by_profile(
    smoke=dict(
        model="packaged", train=16, epochs=1, lr=2e-3, test=6, judge=32, written=4, new=8, repeats=1
    ),
    cpu=dict(
        model="packaged",
        train=720,
        epochs=1,
        lr=2e-3,
        test=96,
        judge=1500,
        written=40,
        new=28,
        repeats=3,
    ),
    full=dict(
        model="gpt2-medium",
        train=None,
        epochs=3,
        lr=5e-4,
        test=1000,
        judge=None,
        written=500,
        new=40,
        repeats=5,
    ),
)
print(describe_device(device))
print(f"profile {current_profile()}: {settings}")

# %% [markdown]
# ## Bug lab · The adapter that never answers
#
# Here is a way to put LoRA into GPT-2 that has been copied around. It finds the linear layers, gives each an adapter, trains, and prints a perplexity and
# a sample before and after. No line raises an error.


# %%
def attach(model: nn.Module, rank: int = 4) -> int:
    """Gives every linear layer an adapter, or so it seems; returns how many."""
    found = 0
    for module in [*model.modules()]:
        if isinstance(module, nn.Linear):
            module.lora = nn.Sequential(
                nn.Linear(module.in_features, rank, bias=False),
                nn.Linear(rank, module.out_features, bias=False),
            )
            found += 1
    return found


# %% [markdown]
# **Predict.** (1) On a GPT-2 with 2 blocks, which has 8 matrices in them, how many adapters does it attach? (2) On a Llama of the same kind it finds the layers. By how much do the outputs change,
# and what is the gradient of an adapter after `backward()`? (3) The sample is made by beam search, `num_beams=3, temperature=0.7`. What does a temperature of 0.1 change? (4) Two prompts of different
# length are generated in one batch, padded on the right. What does the shorter one get, compared with the same prompt alone?
#
# **Run.** Tiny random models are enough, since none of this depends on what a model has learned.

# %% tags=["nbval-check-output"]
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

seed_everything(0)
tiny_gpt2 = GPT2LMHeadModel(
    GPT2Config(
        vocab_size=50,
        n_embd=24,
        n_layer=2,
        n_head=3,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=1,
    )
).eval()
tiny_llama = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
).eval()
ids = torch.randint(3, 50, (2, 9))

blocks = attach(tiny_gpt2.transformer)
print(
    f"(1) adapters in GPT-2's blocks: {blocks}; its layers are of class {type(tiny_gpt2.transformer.h[0].mlp.c_fc).__name__}"
)

before = tiny_llama(ids).logits.detach()
found = attach(tiny_llama.model)
output = tiny_llama(ids, labels=ids)
output.loss.backward()
gradient = tiny_llama.model.layers[0].mlp.up_proj.lora[0].weight.grad
print(
    f"(2) adapters in Llama's blocks: {found}; outputs change by {(output.logits - before).abs().max():g}; gradient of an adapter: {gradient}"
)

said = []
collect = logging.Handler(logging.WARNING)
collect.emit = lambda record: said.append(record.getMessage())
logger = logging.getLogger("transformers")
handlers, logger.handlers = logger.handlers, [collect]
options = dict(max_new_tokens=8, num_beams=3, do_sample=False, pad_token_id=0, eos_token_id=1)
warm, cold = (tiny_llama.generate(ids, temperature=t, **options) for t in (0.7, 0.1))
logger.handlers = handlers
print(
    f"(3) same tokens at temperature 0.7 and 0.1: {torch.equal(warm, cold)}; transformers says something about it: {any('temperature' in line for line in said)}"
)

short, long = ids[0, :3], ids[1]
padded = torch.stack([F.pad(short, (0, 6), value=0), long])
mask = (padded != 0).long()
greedy = dict(max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=1)
logger.handlers = [collect]
with torch.no_grad():
    alone = tiny_llama.generate(short[None], **greedy)[0, 3:].tolist()
    right = tiny_llama.generate(padded, attention_mask=mask, **greedy)[0, 9:].tolist()
    left = tiny_llama.generate(padded[:1].roll(6, 1), attention_mask=mask[:1].roll(6, 1), **greedy)[
        0, 9:
    ].tolist()
logger.handlers = handlers
print(f"(4) alone          {alone}\n    padded right   {right}\n    padded left    {left}")

# %% [markdown]
# **Explain.**
#
# 1. GPT-2's layers are transformers' `Conv1D`, a linear layer with its weight the other way round. `isinstance(module, nn.Linear)` is false for each of them. A search that finds
#    nothing should say so.
# 2. A module that hangs on another is not *called* by it. The forward pass never sees `lora`: outputs are the same, the gradient is `None`, the optimizer skips it, and perplexity "after training" is the perplexity before, to the last
#    digit. If your two numbers agree that well, be suspicious.
# 3. Beams look for the likeliest text. Temperature changes how *random* a choice is, and here nothing is drawn. transformers warns and ignores it.
# 4. The next token is read off the last position, which is padding. Prompts are padded on the **left**, with a mask; then the answer is that of the prompt alone.
#
# **Fix.** `inject` of the package replaces each layer by one that calls both parts, knows `Conv1D`, and raises if nothing matches. `generate` of the package pads on the left and refuses a temperature beside beams.

# %% tags=["nbval-check-output"]
seed_everything(0)
fixed = GPT2LMHeadModel(
    GPT2Config(
        vocab_size=50,
        n_embd=24,
        n_layer=2,
        n_head=3,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=1,
    )
)
inject(fixed, AdapterConfig(rank=4, alpha=8, target_modules="all-linear"))
fixed(ids).logits.square().mean().backward()
moving = [
    name for name, p in fixed.named_parameters() if p.grad is not None and p.grad.abs().max() > 0
]
print(f"{len(moving)} matrices B have a gradient in the first step, among them {moving[0]}")

# %% [markdown]
# ## From reviews to examples
#
# The data are the sentences of lesson 04, with their labels. To steer the model we write the label in words before each sentence, and ask the model to continue:
#
# `Rating: wonderful. Review:` → ` a joy from start to finish .`
#
# This is how instruction tuning works, too: a prompt that is given, an answer that is learned. The prompt is *read*, but it is no *target*. If it were, much of the loss would be about a few
# words that are always the same.
#
# ## Exercise 08.1 · Ask, and grade only the answer
#
# ★ · 10 minutes
#
# Write `mask_prompt(prompt_ids, review_ids)`: a dictionary with `input_ids`, the prompt's ids and then the review's (which end with an end token), and `labels`: one for each token, −100 where nothing is to be learned, else
# the token itself. transformers' models shift the labels by one themselves. Leave both lists as they are.
#
# <details><summary>Nudge</summary>
#
# Two lists of the same length, each made of two parts.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# −100 is what PyTorch's cross entropy leaves out by default. It takes as many as the prompt has tokens.
#
# </details>
# <details><summary>Outline</summary>
#
# input_ids = prompt_ids + review_ids; labels = [-100] * len(prompt_ids) + review_ids.
#
# </details>


# %% exercise="08.1"
def mask_prompt(prompt_ids: list[int], review_ids: list[int]) -> dict[str, list[int]]:
    """input_ids: prompt, then review; labels: -100 for each token of the prompt, then the review."""
    ### BEGIN SOLUTION
    return {
        "input_ids": prompt_ids + review_ids,
        "labels": [-100] * len(prompt_ids) + review_ids,
    }
    ### END SOLUTION


# %% check="08.1"
mask_prompt = check("08.1", mask_prompt)

# %% [markdown]
# ## Perplexity, and its small print
#
# A language model gives each next token a probability. The *cross entropy* is its mean surprise, in nats, and the perplexity is
#
# $$\text{PPL} = \exp\left(\frac{\sum_{\text{texts}} \sum_{i} -\log p(t_i \mid \text{prompt}, t_{<i})}{\text{number of predicted tokens}}\right)$$
#
# as unsure as if it guessed among so many equally likely tokens. The small print decides what the number means:
#
# - *Whose tokens?* A tokenizer with larger pieces has fewer, harder guesses. Compare perplexities of **one** tokenizer only.
# - *Which tokens count?* Here: those of the review, from its first, **without** the prompt and without the end token. A model that was never told where a review ends would otherwise be
#   blamed for that, and any fine-tune would look better than it is.
# - *Mean of what?* Over all tokens of all texts, each once: sum everything, divide once.
#
# ## Exercise 08.2 · Perplexity, every token once
#
# ★★ · 15 minutes
#
# Write `perplexity(batches)`. Each batch is a pair: logits (B, L, V), and labels (B, L), −100 where there is no target. The logits at position i predict the label at position i + 1. Batches have different sizes, and come from a
# generator: you can go through them once.
#
# <details><summary>Nudge</summary>
#
# Two running sums: nats and tokens.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `F.cross_entropy(..., reduction="sum")` leaves out −100 by itself. Your count of tokens must leave it out as well.
#
# </details>
# <details><summary>Outline</summary>
#
# For each batch: targets = labels[:, 1:]; add F.cross_entropy(logits[:, :-1].mT, targets, reduction="sum") to the nats and (targets != -100).sum() to the tokens. At the end exp(nats / tokens).
#
# </details>


# %% exercise="08.2"
def perplexity(batches) -> float:
    """batches of (logits (B, L, V), labels (B, L)) -> exp(nats / predicted tokens), over all of them together."""
    ### BEGIN SOLUTION
    nats, tokens = 0.0, 0
    for logits, labels in batches:
        targets = labels[:, 1:]  # (B, L - 1)
        nats += F.cross_entropy(logits[:, :-1].mT, targets, reduction="sum").item()
        tokens += int((targets != -100).sum())
    return math.exp(nats / tokens)
    ### END SOLUTION


# %% check="08.2"
perplexity = check("08.2", perplexity)

# %% [markdown]
# Now the real model, and your two functions on it. (`conditioned_examples` tokenizes prompt and review, and calls *your* `mask_prompt`.)

# %%
splits = load_reviews("rotten_tomatoes")
model, tokenizer = load_causal_lm(settings["model"])
model.to(device)
PLAIN = ("Negative review:", "Positive review:")
test = splits["test"].select(range(settings["test"]))


def collate(examples):
    return pad_collate(examples, tokenizer.pad_token_id)


def rows_of(reviews, prompts, end=False):
    """Your examples: with the end token for training, without it to measure perplexity."""
    return conditioned_examples(reviews, tokenizer, prompts, end=end, join=mask_prompt)


def scored(rows, batch_size=8):
    """(logits, labels) of one batch after the other, as exercise 08.2 wants them."""
    for start in range(0, len(rows), batch_size):
        examples = [rows[i] for i in range(start, min(start + batch_size, len(rows)))]
        batch = {name: tensor.to(device) for name, tensor in collate(examples).items()}
        labels = batch.pop("labels")
        with torch.no_grad():
            yield model(**batch).logits, labels


few = rows_of(test.select(range(min(24, len(test)))), PLAIN)
mine, package = perplexity(scored(few)), evaluate_language_model(model, tokenizer, few).perplexity
print(
    f"perplexity of {len(few)} reviews, before any training: yours {mine:.3f}, the package's {package:.3f}"
)
assert math.isclose(mine, package, rel_tol=1e-3)

# %% [markdown]
# ## Which words should ask?
#
# A prompt is a choice, and choices can be measured before anything is trained. Take reviews whose label we know. Score each one twice: after the prompt of its own label, and after the *other* one. If the model understands the prompt, a
# review is less surprising after its own. That difference, in nats a review, is what the prompt tells the model.


# %%
def gain(prompts, reviews):
    """Nats by which each review is likelier after the prompt of its own label, and the perplexity after that."""
    own = evaluate_language_model(model, tokenizer, rows_of(reviews, prompts))
    other = evaluate_language_model(model, tokenizer, rows_of(reviews, prompts[::-1]))
    return other.nats - own.nats, own


PROMPTS = ("Rating: terrible. Review:", "Rating: wonderful. Review:")
choosing = splits["validation"].select(range(by_profile(smoke=4, cpu=48, full=500)))
print(
    f"{len(choosing)} validation reviews, {type(model).__name__}, not trained, {describe_device(device)}"
)
for prompts in (PLAIN, PROMPTS):
    nats, own = gain(prompts, choosing)
    error = nats.std() / math.sqrt(len(nats))
    print(
        f"{prompts[1]!r:30s} gain {nats.mean():+.2f} ± {error:.2f} nats a review; the own label is likelier for "
        f"{(nats > 0).double().mean():.0%}; perplexity {own.perplexity:.0f}; {own.seconds:.0f} s"
    )

# %% [markdown]
# In nats the two pairs cannot be told apart on so few reviews: the difference is well inside the errors. Nor can the shares, taken alone. But after "Rating: wonderful" the text is also less surprising altogether, so we keep that pair.
# Choosing the right words cost nothing. (It was the best of five pairs already while this lesson was written, and those were tried on test reviews. So the perplexity *before*, below, flatters the model that was not trained, if anyone. The cell
# above shows how to choose properly: on validation reviews.)
#
# Notice the sizes, too. A review has about 25 tokens of some 5 nats each. To be told which of two labels it has, rather than nothing, can be worth at most about ln 2 ≈ 0.7 nats to a calibrated model. (The gain above is over a model that was told
# the *wrong* label, so it may be larger.) **The label is half a percent of the loss.** A model can become much better at reviews and hardly listen to the label, and the loss would not tell you. That is no mere possibility. While this lesson was
# written, the plain pair was fine-tuned first: the perplexity fell as nicely as it will below, and the judge found what it wrote no better than chance.
#
# ## The fine-tune
#
# Rank 8 on every linear layer. First the numbers before.

# %%
before = evaluate_language_model(model, tokenizer, rows_of(test, PROMPTS))
print(f"before: {before}")
WRITTEN = settings["written"]  # reviews to write for each label
SAMPLING = dict(
    temperature=0.8, top_p=0.95, max_new_tokens=settings["new"], seed=0, batch_size=WRITTEN
)


def write(prompts):
    """WRITTEN reviews for each of the two prompts: {label: texts}."""
    made = {
        label: generate(model, tokenizer, [prompts[label]] * WRITTEN, **SAMPLING)
        for label in (0, 1)
    }
    return {label: [first_line(text) for text in result.texts] for label, result in made.items()}


written = {"before": write(PROMPTS)}

# %%
train = splits["train"].select(range(settings["train"] or len(splits["train"])))
inject(model, AdapterConfig(rank=8, alpha=16, target_modules="all-linear"))
model.to(device)
report = parameter_report(model)
history = fit(
    model,
    rows_of(train, PROMPTS, end=True),
    collate,
    TrainingConfig(epochs=settings["epochs"], batch_size=16, learning_rate=settings["lr"], seed=0),
    name="LoRA r=8",
    dataset=f"rotten_tomatoes, {len(train)} sentences",
)
print(history)
report

# %%
nats, after = gain(PROMPTS, test)
written["after"] = write(PROMPTS)
print(f"before {before}")
print(f"after  {after}")
print(
    f"perplexity is {before.perplexity / after.perplexity:.2f} times lower, with {report.percent:.2f} % of the parameters trained"
)
print(
    f"after the other label's prompt {nats.mean():+.2f} ± {nats.std() / math.sqrt(len(nats)):.2f} nats a review"
)

losses = torch.tensor([row.loss for row in history.steps])
fig, ax = plt.subplots(figsize=(7, 3.4))
ax.plot(range(1, len(losses) + 1), losses, color=BLUE, linewidth=1, label="training batches")
ax.axhline(
    before.loss, color=ORANGE, linestyle="--", label=f"test reviews before ({before.loss:.2f})"
)
ax.axhline(
    after.loss,
    color=GREEN,
    linestyle=":",
    linewidth=2,
    label=f"test reviews after ({after.loss:.2f})",
)
ax.set(xlabel="optimizer step", ylabel="nats a token", title="Learning to sound like a film review")
ax.legend()
plt.show()

# %% [markdown]
# (The training loss counts end tokens and the test loss does not, so the lines are not quite the same quantity.)
#
# What came out? The same prompts, the same seed:

# %%
for label in (1, 0):
    for stage in ("before", "after"):
        print(f"{stage}, {PROMPTS[label]}")
        for text in written[stage][label][:4]:
            print(f"    {text}")

# %% [markdown]
# Before, it writes clean sentences about anything. After, it writes film reviews: lower case, spaces around the commas, a critic's tone, and an end. That is what the perplexity measured. Some
# sentences make little sense; 135 million parameters are few.
#
# ## Choosing the next token
#
# How were these words chosen? Greedily taking the likeliest token each time would give the same review forty times. So we *draw*, but not blindly.
#
# - **Temperature** T divides the logits before the softmax. Below 1 the likely become likelier, above 1 all come closer together.
# - **Top p** (Holtzman et al. 2019) then keeps the smallest set of likeliest tokens that holds at least p of the probability, and draws from those. It cuts off the long tail: thousands of tokens that are each improbable and
#   together not.
#
# ## Exercise 08.3 · One sampling step
#
# ★★★ · 20 minutes
#
# Write `next_token_probabilities(logits, temperature, top_p)` for logits (B, V): temperature first, then top p, and what is left sums to 1 again. The check holds it against transformers' own processors.
#
# <details><summary>Nudge</summary>
#
# Sort the probabilities, largest first. A token is kept if those *before* it do not yet hold p.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# "Before it" is `ordered.cumsum(-1) - ordered`. That way the first token is always kept, and so is the one that crosses the line.
#
# </details>
# <details><summary>Outline</summary>
#
# softmax(logits / T); sort descending, with indices; zero where the mass before is ≥ p; scatter back to the places the indices say; divide by the sum.
#
# </details>


# %% exercise="08.3"
def next_token_probabilities(
    logits: torch.Tensor, temperature: float, top_p: float
) -> torch.Tensor:
    """logits (B, V) -> probabilities (B, V) after temperature and top p; each row sums to 1."""
    ### BEGIN SOLUTION
    probabilities = (logits / temperature).softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    mass_before = ordered.cumsum(-1) - ordered
    kept = ordered.masked_fill(mass_before >= top_p, 0.0)
    kept = torch.zeros_like(probabilities).scatter(-1, order, kept)
    return kept / kept.sum(-1, keepdim=True)
    ### END SOLUTION


# %% check="08.3"
next_token_probabilities = check("08.3", next_token_probabilities)

# %% [markdown]
# Your function on the real model. How does a wonderful review begin, and how many tokens are left to draw from?

# %%
start = "Rating: wonderful. Review: the film is"
with torch.no_grad():
    logits = (
        model(**tokenizer(start, return_tensors="pt").to(device)).logits[:, -1].float().cpu()
    )  # (1, V)
order = logits[0].argsort(descending=True)[:12]
names = [tokenizer.decode([token]).strip() or "(space)" for token in order.tolist()]
fig, axes = plt.subplots(1, 3, figsize=(9, 3.8), sharey=True, sharex=True)
for ax, (temperature, top_p), color in zip(
    axes, ((0.5, 0.95), (1.0, 0.95), (1.5, 0.95)), (BLUE, GREEN, ORANGE), strict=True
):
    p = next_token_probabilities(logits, temperature, top_p)[0]
    ax.barh(names, p[order], color=color)
    ax.set(
        xlabel="probability",
        title=f"T = {temperature}, top p = {top_p}\n{int((p > 0).sum()):,} tokens left",
    )
axes[0].set_ylabel("next token, the 12 likeliest")
axes[0].invert_yaxis()
fig.suptitle(f"“{start} …”")
fig.tight_layout()
plt.show()

# %% [markdown]
# Your step in a loop is a generator of text. It reads the whole sentence again for each token, which `generate` avoids by keeping the keys and values; the choice is the same.

# %%
seed_everything(1)
ids = tokenizer(start, return_tensors="pt").input_ids.to(device)
with torch.no_grad():
    for _ in range(15):
        p = next_token_probabilities(model(ids).logits[:, -1].float(), 0.8, 0.95)
        token = torch.multinomial(p, 1)
        if token.item() == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, token], 1)
print("drawn with your function:", tokenizer.decode(ids[0]))
greedy = generate(model, tokenizer, [start], max_new_tokens=15)
beams = generate(model, tokenizer, [start], max_new_tokens=15, beams=4)
print("greedy                  :", start + greedy.texts[0])
print("four beams              :", start + beams.texts[0])
try:
    generate(model, tokenizer, [start], beams=4, temperature=0.7)
except ValueError as error:
    print("beams with temperature  :", error)

# %% [markdown]
# ## How fast does it write?
#
# Unmerged, every layer computes its adapter beside the base weight. Merged, the change is part of the weight. When one token is made at a time the matrices are tall and the input is one row, so the fixed price of each small
# operation shows far more than in training. Both are timed in turns, in this same run.

# %%
speed = generation_speed(
    model, tokenizer, [PROMPTS[1]] * 8, new_tokens=settings["new"], repeats=settings["repeats"]
)
print(speed)

# %% [markdown]
# ## Without training: teach by showing
#
# Fine-tuning is not the only way to get reviews out of a model. You can put a few of them into the prompt, with their labels, and let it go on. That is *few-shot* prompting (Brown et al. 2020). No weight changes; you pay with a longer prompt, for each text
# again.
#
# ## Exercise 08.4 · Teach by showing
#
# ★ · 10 minutes
#
# Write `few_shot_prompt(examples, prompts, label)`: for each `(text, its_label)` one line, the prompt of its label, a space, the text. Then a last line: the prompt of the wanted `label` alone. No space and no line break at the end.
#
# <details><summary>Nudge</summary>
#
# `"\n".join(lines)` puts line breaks between lines and none at the end.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# Each line needs the prompt of its *own* label, `prompts[its_label]`; only the last one has the label that you want.
#
# </details>
# <details><summary>Outline</summary>
#
# lines = [f"{prompts[l]} {text}" for text, l in examples]; append prompts[label]; join with line breaks.
#
# </details>


# %% exercise="08.4"
def few_shot_prompt(examples: list[tuple[str, int]], prompts: tuple[str, ...], label: int) -> str:
    """Lines of 'prompt text', one for each example, then the open prompt of the wanted label."""
    ### BEGIN SOLUTION
    lines = [f"{prompts[shown]} {text}" for text, shown in examples]
    return "\n".join([*lines, prompts[label]])
    ### END SOLUTION


# %% check="08.4"
few_shot_prompt = check("08.4", few_shot_prompt)

# %% [markdown]
# Three short reviews of each kind, from the training split, and the model as it was before: the adapters switched off by loading the base anew.

# %%
tuned_model = model
model, _ = load_causal_lm(settings["model"])
model.to(device)
short = [(r["text"], r["label"]) for r in splits["train"] if 6 <= len(r["text"].split()) <= 16]
bad, good = ([review for review in short if review[1] == label][:3] for label in (0, 1))
examples = [review for pair in zip(bad, good, strict=True) for review in pair]
asking = [few_shot_prompt(examples, PROMPTS, label) for label in (0, 1)]
print(asking[1])
print(
    f"({len(tokenizer(asking[1])['input_ids'])} tokens, where the plain prompt has {len(tokenizer(PROMPTS[1])['input_ids'])})"
)
written["few-shot"] = write(asking)
for label in (1, 0):
    print(f"\nfew-shot, {PROMPTS[label]}")
    for text in written["few-shot"][label][:4]:
        print(f"    {text}")

# %% [markdown]
# ## A judge
#
# Did it work? Reading four sentences is not evidence, and the author of a model is a poor judge of it. So let a classifier decide: the encoder of lesson 04 with LoRA, trained for a minute. It reads all that was written for each prompt.
# It trains on sentences from the end of the training split, which neither the language model nor the prompt above has seen (on the `cpu` profile), and it has its own errors, so first we need to know those.

# %%
seed_everything(0)
judge, judge_tokenizer = load_encoder("packaged", base_dropout=0.0)
inject(
    judge, AdapterConfig(rank=8, alpha=16, target_modules="all-linear", trainable=["classifier"])
).to(device)
count = settings["judge"] or len(splits["train"])
judge_splits = dict(splits)
judge_splits["train"] = splits["train"].select(
    range(len(splits["train"]) - count, len(splits["train"]))
)
judge_splits["validation"] = splits["validation"].select(
    range(by_profile(smoke=8, cpu=100, full=500))
)
judge_splits["test"] = splits["test"].select(range(by_profile(smoke=16, cpu=500, full=1500)))
_, judged = train_sentiment(
    judge,
    judge_tokenizer,
    judge_splits,
    TrainingConfig(epochs=1, batch_size=16, learning_rate=2e-3, seed=0),
)
print(judged)

# %%
real = {label: [r["text"] for r in judge_splits["test"] if r["label"] == label] for label in (0, 1)}
verdicts = {}
print(
    f"{'':10s} {'asked for positive, judged positive':38s} {'asked for negative, judged negative':38s}"
)
for stage, texts in {
    "before": written["before"],
    "few-shot": written["few-shot"],
    "after": written["after"],
    "real": real,
}.items():
    verdicts[stage] = {
        label: judge_texts(judge, judge_tokenizer, texts[label], [label] * len(texts[label]))
        for label in (1, 0)
    }
    print(f"{stage:10s} {str(verdicts[stage][1]):38s} {str(verdicts[stage][0]):38s}")

stages = list(verdicts)
fig, ax = plt.subplots(figsize=(7, 3.8))
for label, color, marker, shift in ((1, BLUE, "o", -0.08), (0, ORANGE, "s", 0.08)):
    shares = [verdicts[stage][label].share for stage in stages]
    ends = [verdicts[stage][label].interval for stage in stages]
    bars = [
        [s - low for s, (low, _) in zip(shares, ends, strict=True)],
        [high - s for s, (_, high) in zip(shares, ends, strict=True)],
    ]
    ax.errorbar(
        [i + shift for i in range(len(stages))],
        shares,
        yerr=bars,
        fmt=marker,
        color=color,
        capsize=4,
        label=f"asked for {'positive' if label else 'negative'}",
    )
ax.axhline(0.5, color="grey", linewidth=0.8)
ax.set_xticks(range(len(stages)), ["before", "few-shot", "after\nfine-tuning", "real\nreviews"])
ax.set(
    ylabel="share judged as asked for",
    ylim=(0, 1.02),
    title=f"{WRITTEN} written reviews a prompt, and the real ones; 95 % intervals",
)
ax.legend(loc="lower right")
fig.tight_layout()
plt.show()

# %% [markdown]
# Each bracket is Wilson's 95 % interval for a share of n. It covers chance in *these* samples, not the judge's own mistakes. Those show in the last row: real reviews, which are what they are, do not reach 1 either. That is
# no ceiling, though. A generator that writes more bluntly than critics do can please this judge better than they, and in the saved run one does.
#
# Now, one number for each way: how often is the judge's verdict the one we asked for, over both prompts? A model that ignores the label gets 0.5, whatever its mood.

# %%
steered = {}
for stage in stages:
    hits = sum(verdicts[stage][label].hits for label in (0, 1))
    n = sum(verdicts[stage][label].n for label in (0, 1))
    steered[stage] = hits / n
    print(
        f"{stage:9s} judged as asked {hits} of {n}: {hits / n:.2f} ± {math.sqrt(hits / n * (1 - hits / n) / n):.2f} (standard error)"
    )


def compare(first, second):
    n = 2 * WRITTEN
    a, b = steered[first], steered[second]
    error = math.sqrt((a * (1 - a) + b * (1 - b)) / n)
    verdict = "clear" if abs(b - a) > 2 * error else "not more than chance may give"
    print(
        f"{second} minus {first}: {b - a:+.2f}, {abs(b - a) / error if error else 0:.1f} standard errors: {verdict}"
    )


compare("before", "after")
compare("few-shot", "after")

# %% [markdown]
# Read the table with three thoughts in mind.
#
# **Both directions count.** "So many of its positive reviews are positive" alone is half a claim: a model that is always cheerful earns it without listening.
#
# **Steering is not style.** Before the fine-tune, the model followed the label already, because we chose words that it knew; it just did not write film reviews. What the fine-tune bought is in the perplexity. Whether it also listens better to the label is what
# the last lines say, and where they say "not more than chance may give", it is not shown. With 80 texts a difference must be above 0.14 or so to be clear.
#
# **The judge has seen the same data set.** It likes what sounds like Rotten Tomatoes. A text about something else gets a verdict all the same.
#
# ## What did it cost?

# %%
summary = history.summary
print(
    f"trained           {report.trainable:,} of {report.total:,} parameters: {100 * history.parameter_reduction:.2f} % fewer than all"
)
print(
    f"training          {summary.seconds:.0f} s, {sum(r.tokens for r in history.steps) / summary.seconds:.0f} tokens/s, {summary.peak_memory_bytes / 2**20:.0f} MiB {summary.peak_memory_label}"
)
print(
    f"perplexity        {before.perplexity:.1f} -> {after.perplexity:.1f} on {len(test)} test reviews, {int(after.tokens.sum()):,} tokens"
)
print(
    f"generation        {speed.unmerged:.0f} tokens/s unmerged, {speed.merged:.0f} merged ({speed.ratio:.2f} times)"
)
print(
    f"steering          {steered['before']:.2f} -> {steered['after']:.2f} of {2 * WRITTEN} as asked; few-shot {steered['few-shot']:.2f}; real reviews {steered['real']:.2f}"
)
print(f"on                {type(tuned_model).__name__}, {describe_device(device)}")

# %% [markdown]
# ## Self-test
#
# <details><summary>1. A colleague reports perplexity 12 for GPT-2 and 20 for a Llama on the same texts. Is GPT-2 better?</summary>
#
# Not shown. Their tokenizers cut the texts differently, so the means are over different numbers of guesses. Compare nats per *text*, or per character.
#
# </details>
# <details><summary>2. Perplexity halves, and yet the model hardly follows the label. How can both be true?</summary>
#
# Knowing the label is worth at most ln 2 nats a review over not knowing it, out of a hundred or more. The loss rewards style, words and topic first. What you want to know you must measure by itself: the gain over the wrong label, or a judge.
#
# </details>
# <details><summary>3. You want ten different answers, and set num_beams=10 and temperature=1.2. What do you get, and what should you do?</summary>
#
# Without `do_sample=True` the temperature is ignored, with a warning, and beams return near copies of the likeliest text. Sample instead: do_sample=True, a temperature, perhaps top p, one beam, ten sequences, and a seed.
#
# </details>
#
# ## Reading
#
# - Holtzman et al. 2019, [The Curious Case of Neural Text Degeneration](https://arxiv.org/abs/1904.09751): why the likeliest text is dull, and top p.
# - Brown et al. 2020, [Language Models are Few-Shot Learners](https://arxiv.org/abs/2005.14165): section 2 on zero, one and few shots.
# - Keskar et al. 2019, [CTRL](https://arxiv.org/abs/1909.05858): a whole model trained on control codes, which is what our prompts are.
# - Hu et al. 2021, [LoRA](https://arxiv.org/abs/2106.09685): section 5.4 adapts GPT-2 medium and large to generation.
