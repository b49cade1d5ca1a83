# %% [markdown]
# # 12 · Hyperparameter search
#
# **The question.** Which hyperparameters matter, and how do you search for them without fooling yourself?
#
# **What you will be able to do**
# - say what is wrong with a search loop that looks right;
# - draw learning rates so that each factor of ten has its chance, pick the best trial safely, and stop hopeless ones early;
# - run a search with Optuna that survives kills and that other machines can join;
# - say how far the winner's score flatters it, and judge it against the default with a standard error;
# - tell an important hyperparameter from a lucky one.
#
# **Time and memory.** About 100 minutes, most of them yours: the cells take about a minute and a half on two CPU cores, and about
# 1.5 GiB of memory.

# %%
import math
import statistics
import tempfile
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import display
from torch import nn

from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.teaching.exercises import check
from lora_course.teaching.profiles import by_profile

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
device = choose_device()
print(describe_device(device))

# %% [markdown]
# ## Bug lab · The search that always finds something
#
# A search is a loop: choose settings, train, look at the score, keep the best. Here is one, over learning rates, on a toy problem. It runs, it prints a winner, and three things are
# wrong with it.

# %%
seed_everything(0)
x, w = torch.randn(300, 20), torch.randn(20, 1)
y = x @ w + 0.5 * torch.randn(300, 1)
x_train, y_train, x_valid, y_valid = x[:200], y[:200], x[200:], y[200:]


def new_model():
    torch.manual_seed(0)
    return nn.Linear(20, 1)


def train_and_score(model, learning_rate, steps=20):
    """Minus the validation loss: the higher the better."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x_train), y_train).backward()
        optimizer.step()
    with torch.no_grad():
        return -nn.functional.mse_loss(model(x_valid), y_valid).item()


def wild_search(learning_rates):
    model = new_model()
    trials = [
        {"trial": i, "rate": rate, "score": train_and_score(model, rate)}
        for i, rate in enumerate(learning_rates)
    ]
    return max(trials, key=lambda trial: trial["score"]), trials


# %% [markdown]
# **Predict.** (1) The same learning rate, five times over. Which trial wins? (2) Rates 0.003, 0.01, 0.03, in this order and backwards. Does the same one win? (3) The first of four rates is absurdly
# high, so that its loss becomes NaN. What do the other three say, and who wins? (4) Suppose that each trial had a model of its own. Who wins then?
#
# **Run.**


# %% tags=["nbval-check-output"]
def show(question, result):
    winner, trials = result
    scores = ", ".join(f"{t['rate']:g}: {t['score']:.2f}" for t in trials)
    print(f"{question} winner: trial {winner['trial']}, rate {winner['rate']:g}   ({scores})")


show("(1)", wild_search([0.01] * 5))
show("(2)", wild_search([0.003, 0.01, 0.03]))
show("(2)", wild_search([0.03, 0.01, 0.003]))
show("(3)", wild_search([1000.0, 0.03, 0.01, 0.003]))
fresh = [
    {"trial": i, "rate": rate, "score": train_and_score(new_model(), rate)}
    for i, rate in enumerate([1000.0, 0.03, 0.01, 0.003])
]
show("(4)", (max(fresh, key=lambda trial: trial["score"]), fresh))
print("max([nan, 1, 2]) is", max([math.nan, 1, 2]), "and max([1, nan, 2]) is", max([1, math.nan, 2]))

# %% [markdown]
# **Explain.**
#
# 1. The last trial wins, because there is only *one model*. Each trial goes on where the one before stopped, and so has trained longer. The search measures the order of its trials.
# 2. Hence the winner is whoever comes last.
# 3. One diverged trial fills the shared weights with NaN, and every later trial is dead on arrival.
# 4. With fresh models the others are sound again, and still trial 0 wins with a score of NaN. Python's `max` keeps the first item until it finds a larger one, and no comparison with NaN is ever true. In any other place NaN
#    loses, so the bug hides until it strikes at trial 0.
#
# The third mistake makes no noise at all: the score that is printed at the end is the one that *chose* the winner. We come back to it in exercise 12.4.
#
# **Fix.** A fresh model in every trial, with the same seed, so that nothing differs but the settings. NaN and failed trials are recorded, with the reason, and are never best. And the winner is judged on data that did not
# choose it.

# %% [markdown]
# ## Where to look
#
# A learning rate may sensibly lie anywhere between 10⁻⁵ and 10⁻¹. Draw it uniformly, and nine of ten draws lie above 10⁻², one in a thousand below 10⁻⁴. What matters about a learning rate is the *factor* between two of them, so each
# factor of ten deserves the same share of the draws: the logarithm should be uniform.
#
# ## Exercise 12.1 · Every factor of ten alike
#
# ★ · 10 minutes
#
# Write `log_uniform(low, high, u)`. u is a tensor of uniform draws between 0 and 1; return the learning rates that belong to them, `low` for 0 and `high` for 1.
#
# <details><summary>Nudge</summary>
#
# On the scale of logarithms it is an ordinary straight line from log low to log high.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# Which u belongs to the rate in the geometric middle, √(low · high)? One half.
#
# </details>
# <details><summary>Outline</summary>
#
# low · (high / low)ᵘ, or exp of the line, with log and exp to the same base.
#
# </details>


# %% exercise="12.1"
def log_uniform(low: float, high: float, u: torch.Tensor) -> torch.Tensor:
    """u between 0 and 1 -> rates between low and high, of the same shape."""
    ### BEGIN SOLUTION
    return low * (high / low) ** u
    ### END SOLUTION


# %% check="12.1"
log_uniform = check("12.1", log_uniform)

# %%
u = torch.rand(4000, generator=torch.Generator().manual_seed(0))
edges = [10.0**k for k in range(-5, 0)]
shares = {}
for name, rates in {"uniform": 1e-5 + u * (1e-1 - 1e-5), "yours": log_uniform(1e-5, 1e-1, u)}.items():
    shares[name] = [
        ((rates >= low) & (rates < high)).float().mean().item()
        for low, high in zip(edges, edges[1:], strict=False)
    ]
fig, ax = plt.subplots(figsize=(7, 3.2))
for offset, (name, color, hatch) in zip(
    (-0.2, 0.2), (("uniform", ORANGE, "//"), ("yours", BLUE, "")), strict=True
):
    ax.bar(
        [i + offset for i in range(4)], shares[name], 0.4, color=color, hatch=hatch, label=name
    )
ax.set_xticks(range(4), [f"1e{k} to 1e{k + 1}" for k in range(-5, -1)])
ax.set(
    xlabel="learning rate", ylabel="share of the draws", title="Four factors of ten, 4 000 draws"
)
ax.legend()
plt.show()

# %% [markdown]
# The same thought decides how to search α. LoRA's branch is scaled by s = α/r. If you draw α and r apart, each draw of r changes the scale as well, and the two choices can no longer be told apart. So the search below draws r and
# **s**, and sets α = s r.
#
# ## Exercise 12.2 · The best of those that count
#
# ★★ · 15 minutes
#
# Write `best_trial(trials, minimize)`: the index of the best trial in the list. A trial is a dictionary with `state` ("complete", "pruned", "failed" or "running") and `value` (a number, perhaps NaN or infinite, or None).
# Only complete trials with a finite value count; of equals, the first. If none is left, raise `ValueError`.
#
# <details><summary>Nudge</summary>
#
# First throw out what does not count, then compare. Not both at once.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# Work on indices: a list of the i whose trial counts. `math.isfinite` refuses NaN and both infinities.
#
# </details>
# <details><summary>Outline</summary>
#
# ok = [i for i, t in enumerate(trials) if ...]; raise if it is empty; min or max over ok with key=lambda i: trials[i]["value"].
#
# </details>


# %% exercise="12.2"
def best_trial(trials: list[dict], minimize: bool) -> int:
    """Index of the complete trial with the best finite value. Raises ValueError if there is none."""
    ### BEGIN SOLUTION
    ok = [
        i for i, t in enumerate(trials) if t["state"] == "complete" and math.isfinite(t["value"])
    ]
    if not ok:
        raise ValueError("no trial is complete with a finite value")
    return (min if minimize else max)(ok, key=lambda i: trials[i]["value"])
    ### END SOLUTION


# %% check="12.2"
best_trial = check("12.2", best_trial)

# %% [markdown]
# ## Stopping the hopeless
#
# Most settings are bad, and most bad ones can be told half-way. *Pruning* stops them there and spends the time on others. The simplest rule that works well: after each evaluation compare a trial with those that are complete.
# If even its best value so far is worse than the **median** of theirs at the same step, it stops.
#
# ## Exercise 12.3 · Worse than half
#
# ★★ · 15 minutes
#
# Write `should_stop(mine, others, step, startup)`. `mine` maps steps to losses (the lower the better), as reported so far; `others` is a list of such dictionaries, one for each complete trial. Return True if the best loss of
# `mine` up to and including `step` is above the median of the others' losses at exactly this step. Others without a value at this step do not count; if fewer than `startup` remain, return False.
#
# <details><summary>Nudge</summary>
#
# Two numbers are compared: a minimum over *my* steps, and a median over *others* at one step.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `statistics.median` takes the mean of the two in the middle when their number is even; `torch.median` takes the lower one.
#
# </details>
# <details><summary>Outline</summary>
#
# there = [other[step] for other in others if step in other]; False if there are too few; min of mine's values whose step is at most `step` > statistics.median(there).
#
# </details>


# %% exercise="12.3"
def should_stop(
    mine: dict[int, float], others: list[dict[int, float]], step: int, startup: int = 5
) -> bool:
    """Whether a trial lags behind half of the others at this step."""
    ### BEGIN SOLUTION
    there = [other[step] for other in others if step in other]
    if len(there) < startup:
        return False
    return min(value for s, value in mine.items() if s <= step) > statistics.median(there)
    ### END SOLUTION


# %% check="12.3"
should_stop = check("12.3", should_stop)

# %% [markdown]
# ## The best of many flatters itself
#
# Suppose that twenty settings are all equally good, and each is right on 75 % of all sentences that will ever be written. Judged on 200 validation sentences they will not look alike: each score has a standard error of
# √(0.75 · 0.25 / 200), about 3 points. You take the highest. It is the highest *because* it was lucky, and luck does not carry over.
#
# ## Exercise 12.4 · What the winner is worth
#
# ★★ · 10 minutes
#
# `validation` and `test` hold scores of shape (searches, trials): each row is a whole search, and the two scores at one place belong to the same trial. Write `winners(validation, test)` that returns two numbers, both averaged over the
# searches: the validation score of each search's winner, and the test score of the same trial.
#
# <details><summary>Nudge</summary>
#
# Validation chooses. Test only answers.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `argmax` along the trials gives one index for each search. Use it on both tensors.
#
# </details>
# <details><summary>Outline</summary>
#
# chosen = validation.argmax(1, keepdim=True); gather along dimension 1 from both; mean of each.
#
# </details>


# %% exercise="12.4"
def winners(validation: torch.Tensor, test: torch.Tensor) -> tuple[float, float]:
    """(searches, trials) twice -> mean validation score of the winners, mean test score of the same."""
    ### BEGIN SOLUTION
    chosen = validation.argmax(1, keepdim=True)  # (searches, 1)
    return validation.gather(1, chosen).mean().item(), test.gather(1, chosen).mean().item()
    ### END SOLUTION


# %% check="12.4"
winners = check("12.4", winners)

# %%
g = torch.Generator().manual_seed(0)


def scores(sentences, shape, true=0.75):
    """Measured accuracies of settings that are all equally good."""
    probability = torch.full(shape, true)
    return torch.binomial(torch.full(shape, float(sentences)), probability, generator=g) / sentences


NUMBERS = (1, 2, 4, 8, 16, 32, 64)
flattered = {
    sentences: [
        winners(scores(sentences, (2000, n)), scores(1500, (2000, n))) for n in NUMBERS
    ]
    for sentences in (200, 1000)
}
fig, ax = plt.subplots(figsize=(7, 3.6))
for (sentences, pairs), color, style in zip(
    flattered.items(), (ORANGE, BLUE), ("s-", "o-"), strict=True
):
    ax.plot(
        NUMBERS,
        [v for v, _ in pairs],
        style,
        color=color,
        label=f"the winner on the {sentences} validation sentences",
    )
ax.plot(
    NUMBERS, [t for _, t in flattered[200]], "^--", color="black", label="the same winner on test"
)
ax.set_xscale("log", base=2)
ax.set_xticks(NUMBERS, [str(n) for n in NUMBERS])
ax.set(
    xlabel="trials in the search",
    ylabel="mean accuracy",
    title="All settings equally good (0.75): what the winner seems to be",
    ylim=(0.74, 0.85),
)
ax.legend(loc="upper left")
plt.show()
v, t = flattered[200][NUMBERS.index(16)]
print(f"16 equal settings, 200 validation sentences: the winner scores {v:.3f}, and is worth {t:.3f}")

# %% [markdown]
# Nothing was searched here and nothing was found. More trials make the winner *look* better, without end; a larger validation split makes it look less so. Two remedies: choose by a finer measure than accuracy, such as the loss,
# which moves a little with every sentence; and never quote a score that took part in the choice.
#
# ## Exercise 12.5 · The same sentences for both
#
# ★★ · 15 minutes
#
# In the end two settings are compared: the winner and what you would have used anyway. Both answer the *same* test sentences, and a hard sentence is hard for both. So the fair thing to do is to take the difference sentence by
# sentence, $d_i = a_i - b_i$, and to ask how sure its mean is:
#
# $$\bar d = \frac1n \sum_i d_i \qquad \text{standard error} = \frac{\text{standard deviation of the } d_i}{\sqrt n}$$
#
# Write `difference(right_a, right_b)`, which returns both numbers. The tensors of shape (n,) hold 1 where the answer was right and 0 where not, or the share of several seeds that were right.
#
# <details><summary>Nudge</summary>
#
# Subtract first. Everything else is about one list of numbers.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# `tensor.std()` is the spread of one sentence's difference; a mean over n of them is √n times surer.
#
# </details>
# <details><summary>Outline</summary>
#
# apart = right_a − right_b; its mean, and its std() over the square root of its length.
#
# </details>


# %% exercise="12.5"
def difference(right_a: torch.Tensor, right_b: torch.Tensor) -> tuple[float, float]:
    """(n,) twice -> accuracy of a less accuracy of b, and the standard error of that difference."""
    ### BEGIN SOLUTION
    apart = right_a - right_b
    return apart.mean().item(), apart.std().item() / math.sqrt(len(apart))
    ### END SOLUTION


# %% check="12.5"
difference = check("12.5", difference)

# %% [markdown]
# ## The real search
#
# Optuna calls one attempt a *trial* and all of them together a *study*. Its default sampler, TPE, draws the first ten trials at random; afterwards it models where good and bad ones lie and draws where good ones are more likely.
#
# A `Plan` says what all trials share, and the space they draw from:

# %%
from lora_course.assets import load_reviews
from lora_course.experiments.search import open_study, search
from lora_course.experiments.search_space import DEFAULT, Plan

plan = Plan(
    model=by_profile(smoke="packaged", cpu="packaged", full="bert-base-uncased"),
    train=by_profile(smoke=32, cpu=480, full=4000),
    validation=by_profile(smoke=16, cpu=200, full=500),
    max_words=by_profile(smoke=18, cpu=18, full=60),  # short sentences for short trials
    batch_size=by_profile(smoke=8, cpu=8, full=16),
    evaluations=3,
    metric="loss",
    max_length=48,
    seed=0,
)
TRIALS = by_profile(smoke=3, cpu=16, full=60)
TEST = by_profile(smoke=32, cpu=500, full=1500)
splits = load_reviews(plan.data, max_words=plan.max_words)
for name, choices in vars(plan.space).items():
    print(f"{name:14s} {', '.join(map(str, choices))}{'   (log-uniform between)' if name == 'learning_rate' else ''}")
print("default        " + ", ".join(f"{name} {value}" for name, value in DEFAULT.items()))

# %% [markdown]
# Each trial makes a fresh encoder with the same seed, injects, trains for one short pass, and is evaluated three times on the validation split. *Your* `should_stop` decides whether it may go on. Trial 0 is the default of this course: a search that
# does not contain what you would have done anyway cannot tell you whether it was worth it.
#
# The study lies in a SQLite file. Everything is written as it happens, so a search that is killed goes on where it was; the trial in progress is queued again.

# %%
import optuna


class Yours(optuna.pruners.BasePruner):
    """Optuna asks after every report; your function answers."""

    def prune(self, study, trial):
        complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        others = [other.intermediate_values for other in complete]
        return should_stop(trial.intermediate_values, others, trial.last_step, 5)


folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
storage = Path(folder.name) / "search.db"
results = search(open_study(storage, plan), TRIALS, splits=splits, pruner=Yours())

# %%
from lora_course.experiments.search_plots import progress_plot

display(progress_plot(results, plan.metric))
states = Counter(r.state for r in results)
seconds = sum(r.seconds for r in results if r.seconds)
print(
    f"{', '.join(f'{n} {state}' for state, n in states.items())}; {seconds:.0f} s of training and evaluation, {describe_device(device)}"
)

# %% [markdown]
# Hollow dots are trials that were stopped, at the loss where they stood. A loss of ln 2 ≈ 0.693 is what a model has that knows nothing and says so: many settings had not got off the ground yet where they were stopped, and whether they would have the picture cannot tell. What would have been the
# time without pruning?

# %%
complete = [r for r in results if r.state == "complete"]
each = statistics.fmean(r.seconds for r in complete)
print(
    f"a complete trial took {each:.1f} s on average: {len(results)} of them {each * len(results):.0f} s; with your rule it was {seconds:.0f} s"
)

# %% [markdown]
# And if the search is interrupted? The same command goes on. Here nothing is left to do, so nothing is done:

# %%
again = search(
    open_study(storage), TRIALS, splits=splits, say=lambda line: print("ran", line)
)
print(f"{len(again)} trials, the same as before: {again == results}")

# %% [markdown]
# ## Many machines, one study
#
# The study is the only thing that machines must share. Each of them runs the same line, and the number of trials is that of all together:
#
# ```
# lora-course search --storage postgresql+psycopg://me:secret@host/lora --trials 200
# ```
#
# SQLite (`--storage search.db`) is for one machine; a folder shared over a network wants a journal file (`--storage search.journal`), since SQLite's locks are not safe there. A database needs its driver (`pip install psycopg`, here).
#
# What if a machine dies in mid-trial? While a trial runs, its process writes a heartbeat into the database every 20 seconds. One that has been silent for a minute is marked as failed by whoever looks next, and its choices are queued again. A journal file has
# no heartbeats: `--requeue-running` says that nobody else is at work. A trial that takes its process with it three times in a row is given up.
#
# ## Which choices mattered?
#
# Optuna can say how much each choice had to do with success. Its method, PED-ANOVA (Watanabe et al. 2023), asks: how differently is a choice distributed among the best quarter of the trials than among all of them? No model of the score is fitted, only how densely each choice occurs in the one group and in the other, and a
# pruned or failed trial counts too, since all that matters is that it is not among the best.
#
# The numbers always add up to 1, *also if nothing mattered*. So we ask a second question: deal the same results to the trials at random, again and again. What does importance look like when there can be none?

# %%
from lora_course.experiments.search_plots import contour_plot, importance_plot
from lora_course.experiments.search_results import importances

if len(results) >= 8:
    shares = importances(results, plan)
    display(importance_plot(shares, len(results)))
    above = [name for name, (share, luck) in shares.items() if share > luck]
    print(f"above what luck gives in 95 of 100 shuffles: {', '.join(above) or 'none'}")
else:
    print(f"{len(results)} trials are too few to speak of importance")

# %%
display(contour_plot(results, "learning_rate", "rank", plan.metric))

# %% [markdown]
# Read both pictures with suspicion. In the first, look at the marks before the bars: where results are dealt at random, the learning rate still takes more than half of the importance in one shuffle of twenty. It is the only choice on a
# continuous scale, and a handful of good trials never spreads evenly along a line. A bar like that, without its mark, proves nothing. In the search saved here no choice comes out above luck, which is not the same as
# not mattering: sixteen trials are too few to tell. And after trial 10 the sampler drew mostly near its favourites, so that the other ranks were hardly tried again. In the second picture most of the plane is white or rests on one trial; the colours
# between the marks are a guess, and a pruned trial colours with the loss at which it was stopped, which flatters nobody.
#
# With so few trials, six choices and one seed, the honest statement about most of them is "we cannot tell".
#
# ## Judge the winner
#
# Your `best_trial` picks it. Then winner and default are trained again with **new seeds** (the search knew only seed 0, and has chosen for it, too), and answer test sentences that nobody has looked at.

# %%
from lora_course.experiments.search_trial import load_model, prepare_data, train_with
from lora_course.training.batching import example_lengths, pad_collate, sorted_batches
from lora_course.training.sentiment import tokenize_reviews

winner = results[best_trial([{"state": r.state, "value": r.value} for r in results], minimize=True)]
print(f"winner {winner.line(plan.metric)}")

load = partial(load_model, plan)
data = prepare_data(plan, load, splits)
once = replace(plan, evaluations=1)


@torch.no_grad()
def right_answers(model, tokenizer, reviews):
    """(n,): 1 where the model is right."""
    tokenized = tokenize_reviews(reviews, tokenizer, plan.max_length)
    right = torch.zeros(len(reviews))
    model.eval()
    for indices in sorted_batches(example_lengths(tokenized), 64):
        batch = pad_collate([tokenized[i] for i in indices], tokenizer.pad_token_id)
        labels = batch.pop("labels")
        logits = model(**{k: v.to(device) for k, v in batch.items()}).logits.cpu()
        right[torch.tensor(indices)] = (logits.argmax(-1) == labels).float()
    return right


test = splits["test"].select(range(TEST))
SEEDS = by_profile(smoke=(1,), cpu=(1, 2), full=(1, 2, 3, 4, 5))
right = {}
for name, choices in (("winner", winner.choices), ("default", DEFAULT)):
    runs = []
    for seed in SEEDS:
        model, tokenizer, history = train_with(choices, once, seed, data, load, name=name)
        runs.append(right_answers(model, tokenizer, test))
        print(
            f"{name:8s} seed {seed}: validation {plan.metric} {history.evaluations[-1].metrics[plan.metric]:.3f}, "
            f"test accuracy {runs[-1].mean():.3f}, {history.summary.seconds:.0f} s of training"
        )
    right[name] = torch.stack(runs)  # (seeds, n)

# %%
gap, error = difference(right["winner"].mean(0), right["default"].mean(0))
in_search = next(r for r in results if r.choices == DEFAULT)
print(f"{plan.model} on {plan.data}, {plan.train} sentences of up to {plan.max_words} words for training, {TEST} for the test, {describe_device(device)}")
for name, trial in (("winner", winner), ("default", in_search)):
    seen = f"{trial.metrics['accuracy']:.3f} on {plan.validation} validation sentences in the search ({trial.state})"
    by_seed = ", ".join(f"{a:.3f}" for a in right[name].mean(1))
    print(f"{name:8s} {seen}; on test {right[name].mean():.3f} (seeds: {by_seed})")
print(f"winner - default: {gap:+.3f} ± {error:.3f} (one standard error over the sentences)")
by_seed = (right["winner"].mean(1) - right["default"].mean(1)).tolist()
if len(by_seed) > 1:
    seed_error = statistics.stdev(by_seed) / math.sqrt(len(by_seed))
    gains = ", ".join(f"{g:+.3f}" for g in by_seed)
    print(f"seed by seed: {gains}; ± {seed_error:.3f} (one standard error over {len(by_seed)} seeds)")
    verdict = "clear of both" if abs(gap) > 2 * math.hypot(error, seed_error) else "within the noise"
    print(f"verdict: {verdict}, two standard errors being asked for")

fig, ax = plt.subplots(figsize=(7, 2.8))
for row, (name, trial, color) in enumerate(
    (("default", in_search, BLUE), ("winner", winner, ORANGE))
):
    mean = right[name].mean().item()
    ax.errorbar(
        mean,
        row,
        xerr=math.sqrt(mean * (1 - mean) / TEST),
        fmt="o",
        color=color,
        capsize=4,
        markersize=9,
        label="test, mean of the seeds ± one standard error" if row == 0 else None,
    )
    ax.scatter(
        right[name].mean(1),
        [row] * len(SEEDS),
        marker="|",
        s=200,
        color="black",
        label="test, one seed each" if row == 0 else None,
    )
    ax.scatter(
        trial.metrics["accuracy"],
        row,
        marker="D",
        facecolors="none",
        edgecolors="black",
        label="validation, in the search" if row == 0 else None,
    )
ax.axvline(0.5, color="grey", linewidth=0.8)
ax.set_yticks((0, 1), ("default", "winner"))
ax.set(xlabel="accuracy (grey line: guessing)", ylim=(-0.6, 1.6), title="What the search was worth")
ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=3, frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## A sober verdict
#
# - **Did the search pay?** In the run saved here it did: with seeds that the search had not seen, on sentences that nobody had looked at, the winner leads by more than two standard errors, those of the sentences and those of the seeds
#   taken together. Keep a doubt: two seeds that agree closely may do so by chance, and an error bar made of two numbers is hardly known itself. To report a number you would want five or more (`LORA_COURSE_PROFILE=full` takes five).
# - **What did it find out?** Only that one bundle beats another. The winner differs from the default in four choices: learning rate, rank, layers and schedule. Which of them did it? Go from the default to the winner one choice at a time
#   (`train_with(DEFAULT | {"schedule": "constant"}, ...)` is the first step), and you know; the search does not.
# - **What did stopping early cost?** Look for the last trial in the list. It is the winner but for a learning rate a tenth lower, and it was stopped at its first report. Trial 11 is all but the default, and was stopped too. In runs
#   of 60 steps the first losses say little more than when a run takes off. Search as near as you can to the run that you care about, give a trial time to show itself, and make rather fewer of them.
# - **Did the winner flatter itself?** Compare its diamond with its test accuracy in the last picture. Here it did not: it was chosen by its loss, and its new seeds did better. Remember 12.4 all the same: that the best of many looks better than it
#   is happens on average, and not each time.
# - **What to do with a small budget.** Fix the method, adapt all linear layers, take a rank that is surely enough, α = 2r; search the learning rate alone, log-uniformly, over one or two factors of ten; then spend what is left on seeds.
#
# ## Self-test
#
# Answer before you open them.
#
# <details><summary>1. Trial 7 of 40 diverges with NaN. With a shared model and plain `max`, what does the search report? And if it had been trial 0?</summary>
#
# Trials 8 to 39 inherit NaN weights, so they all score NaN; the winner is the best of trials 0 to 6, most likely trial 6, which has trained longest. At trial 0, all forty are NaN and trial 0 wins.
#
# </details>
# <details><summary>2. You double the number of trials and the best validation accuracy rises by half a point. Is the search getting anywhere?</summary>
#
# Not necessarily. The best of twice as many equally good settings also looks better. Only new data, or the same settings with new seeds, can tell.
#
# </details>
# <details><summary>3. A colleague compares the winner with the default on two different test sets of 1 000 sentences, and adds the variances. What is lost?</summary>
#
# Sharpness. On the same sentences the difficulty of each sentence cancels in the difference, and the standard error is smaller. It is not wrong to use different ones, only wasteful.
#
# </details>
#
# ## Reading
#
# - Akiba et al. 2019, [Optuna](https://arxiv.org/abs/1907.10902): section 2 is why the space is written as a program, section 3 the pruning and the shared study.
# - Dodge et al. 2019, [Show Your Work](https://arxiv.org/abs/1909.03004): report what the best of n trials is worth as a function of n, not only the best.
# - Watanabe et al. 2023, [PED-ANOVA](https://arxiv.org/abs/2304.10255): importance among the good trials.
# - Lesson 11 for a way around the search over ranks, lesson 06 for learning rates of A and B.
