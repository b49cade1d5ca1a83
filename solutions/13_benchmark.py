# %% [markdown]
# # 13 · Benchmark and pictures
#
# **The question.** Which method should I use, and how would I know?
#
# **What you will be able to do**
# - spot the four mistakes by which a benchmark crowns the wrong winner;
# - time two things on a busy machine, and say how sure a difference between a few seeds is;
# - find what is beaten by none, when quality, parameters and bytes all count;
# - look inside a run: gradients of A and B, and over how many directions each layer's change is spread;
# - hold four things that are said of LoRA against measurements, and live with "not settled here".
#
# **Time and memory.** About 90 minutes, most of them yours: the cells take about two minutes on two CPU cores, and about
# 1.5 GiB of memory.

# %%
import json
import random
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn

from lora_course import AdapterConfig, adapters, inject, make_optimizer
from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.experiments import plots
from lora_course.teaching.exercises import check
from lora_course.teaching.profiles import by_profile

device = choose_device()
print(describe_device(device))

# %% [markdown]
# ## Bug lab · The benchmark that crowned a winner
#
# Four pieces of benchmarks, as one meets them in notebooks and slides. Each compares two things, and each *knows* that the two are alike, so that you can see what the measurement adds.
#
# **Predict.** (1) The same layer is timed twice, once each, one after the other. Which is faster? (2) A device works on its own while Python goes on. What does a clock say that is read right after the launch?
# (3) Two methods of equal quality; of mine I report the best of five seeds, of yours the mean of five. How often do I win? (4) Memory is read as "the peak so far". First a large thing runs, then a small one. How much does the small one need?
#
# **Run.**


# %%
def once(action):
    """Seconds of one call: no warm-up, no repetition. (1) is wrong with it."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def fresh_step(seed=0):
    """A training step of a small layer, made from nothing."""
    torch.manual_seed(seed)
    layer = nn.Linear(640, 640)
    optimizer = torch.optim.AdamW(layer.parameters())
    x = torch.randn(256, 640)

    def step():
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()

    return step


first, second = fresh_step(), fresh_step()
a, b = once(first), once(second)
print(f"(1) the same step: {1000 * a:.1f} ms the first time, {1000 * b:.1f} ms the second: 'the second method is {a / b:.1f} times as fast'")

queue = ThreadPoolExecutor(max_workers=1)  # stands for a GPU: it takes orders and works by itself
work = lambda: time.sleep(0.05)  # noqa: E731
began = time.perf_counter()
order = queue.submit(work)
launched = time.perf_counter() - began
order.result()  # what torch.cuda.synchronize() does
done = time.perf_counter() - began
print(f"(2) launched after {1000 * launched:.2f} ms, done after {1000 * done:.0f} ms")

chance, trials = random.Random(0), 2000
lead = []
for _ in range(trials):
    mine, yours = ([chance.gauss(0.75, 0.02) for _ in range(5)] for _ in range(2))
    lead.append(max(mine) - statistics.fmean(yours))
print(f"(3) my best seed beats your mean in {sum(d > 0 for d in lead) / trials:.0%} of {trials} comparisons, by {100 * statistics.fmean(lead):.1f} points on average")

from lora_course.training.metrics import peak_memory

cpu, growth = torch.device("cpu"), {}
for name, megabytes in (("large", 400), ("small", 100)):
    before = peak_memory(cpu).bytes
    torch.ones(megabytes * 2**18)  # float32: four bytes each
    growth[name] = (peak_memory(cpu).bytes - before) / 2**20
print("(4) the peak grew by " + ", ".join(f"{mb:.0f} MiB for the {name} one" for name, mb in growth.items()))

# %% [markdown]
# **Explain.**
#
# 1. The first call pays for what happens once: memory is fetched from the system, threads start, the optimizer makes its averages, caches fill. And one call is no measurement: whatever else the machine does falls on one of the two.
# 2. Launching is not computing. On a GPU every operation only joins a queue, so the clock must wait until the queue is empty. A CPU needs no such wait, which is why the mistake goes unnoticed until the code moves.
# 3. The best of several draws is lucky by construction. With five seeds it lies more than one standard deviation above the mean. Compare means with means, and the same number of seeds on either side.
# 4. A peak is the highest point *so far*. It never falls, so whoever comes second looks free. Reset it before each measurement (`reset_peak_memory` here, `torch.cuda.reset_peak_memory_stats` on a GPU), or count tensors as lesson 09 does.
#
# **Fix.** Warm up, synchronise, take turns, repeat, reset; report a median with its spread, means over the same seeds, and how sure their difference is. The first two exercises are the arithmetic of that.
#
# ## Exercise 13.1 · Two clocks in turn
#
# ★ · 10 minutes
#
# A busy machine slows down and speeds up again. If two things take turns, round by round, each round is a small comparison under nearly the same conditions. Write
# `median_ratio(mine, theirs, warm_up)`: the median over the rounds of my time divided by theirs *in the same round*, without the first `warm_up` rounds.
#
# <details><summary>Nudge</summary>
#
# What is the last thing that you should do: divide, or take the median?
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# One ratio for each round. The first ones are from a cold machine.
#
# </details>
# <details><summary>Outline</summary>
#
# `zip` the two lists, divide, cut off the first `warm_up`, `statistics.median`.
#
# </details>


# %% exercise="13.1"
def median_ratio(mine: list[float], theirs: list[float], warm_up: int) -> float:
    """How many times as long mine takes; mine[i] and theirs[i] are seconds of round i."""
    ### BEGIN SOLUTION
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    return statistics.median(ratios[warm_up:])
    ### END SOLUTION


# %% check="13.1"
median_ratio = check("13.1", median_ratio)

# %% [markdown]
# At work: a frozen layer with a LoRA beside it, against the frozen layer alone. `in_turn` of the package calls each of them in every round, beginning with another one each time.

# %%
from lora_course.experiments.costs import in_turn

seed_everything(0)
plain = nn.Sequential(nn.Linear(640, 640)).requires_grad_(False)
adapted = inject(nn.Sequential(nn.Linear(640, 640)), AdapterConfig(rank=8, target_modules=["0"]))
x = torch.randn(512, 640, requires_grad=True)
forward_and_backward = {
    "plain": lambda: plain(x).sum().backward(),
    "with LoRA": lambda: adapted(x).sum().backward(),
}
seconds = in_turn(forward_and_backward, rounds=43, device=torch.device("cpu"))
mine, theirs = seconds["with LoRA"], seconds["plain"]
rounds = sorted(a / b for a, b in zip(mine, theirs, strict=True))
print(f"first round alone: {mine[0] / theirs[0]:.2f}")
print(f"single rounds:     {rounds[0]:.2f} to {rounds[-1]:.2f}")
print(f"your median ratio: {median_ratio(mine, theirs, 3):.2f}, of 40 rounds after 3 to warm up, {describe_device(torch.device('cpu'))}")

# %% [markdown]
# ## Exercise 13.2 · The same seeds
#
# ★★ · 15 minutes
#
# A seed decides the new head and the order of the data, and some orders are lucky for everybody. So give both methods the same seeds and subtract *within* each seed: what both share cancels. Of n differences $d_i$ with mean $\bar d$,
#
# $$\text{standard error} = \frac{1}{\sqrt n}\sqrt{\frac{1}{n-1}\sum_i (d_i - \bar d)^2}$$
#
# Write `paired_difference(a, b)` for two dicts from seed to accuracy. It returns the mean of a − b over the seeds that both have, and its standard error.
#
# <details><summary>Nudge</summary>
#
# One number for each seed first; then forget where it came from.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# Dicts keep the order in which they were filled, and the two need not agree: look each seed up. `statistics.stdev` divides by n − 1.
#
# </details>
# <details><summary>Outline</summary>
#
# d = [a[s] − b[s] for s in a if s in b]; return mean(d), stdev(d) / √len(d).
#
# </details>


# %% exercise="13.2"
def paired_difference(a: dict[int, float], b: dict[int, float]) -> tuple[float, float]:
    """The mean of a - b over common seeds, and its standard error."""
    ### BEGIN SOLUTION
    differences = [a[seed] - b[seed] for seed in a if seed in b]
    return (
        statistics.fmean(differences),
        statistics.stdev(differences) / len(differences) ** 0.5,
    )
    ### END SOLUTION


# %% check="13.2"
paired_difference = check("13.2", paired_difference)

# %% [markdown]
# How many standard errors are enough? With many seeds, about two (95 %). With few, the spread itself is poorly known, and Student's table asks for more: 4.3 with three seeds, 12.7 with two. `t_quantile` of the package looks it up. Below, accuracies of two
# methods that share their luck, made up so that you can see the effect of pairing:

# %% tags=["nbval-check-output"]
from lora_course.experiments.statistics import t_quantile

chance = random.Random(1)
luck = {seed: chance.gauss(0, 0.03) for seed in range(4)}
ours = {seed: 0.77 + luck[seed] + chance.gauss(0, 0.004) for seed in luck}
theirs = {seed: 0.75 + luck[seed] + chance.gauss(0, 0.004) for seed in luck}
difference, error = paired_difference(ours, theirs)
apart = (statistics.variance(ours.values()) / 4 + statistics.variance(theirs.values()) / 4) ** 0.5
for name, found in (("ours", ours), ("theirs", theirs)):
    print(f"{name:7s}" + "  ".join(f"{a:.3f}" for a in found.values()))
print(f"difference {100 * difference:.1f} points; standard error {100 * error:.1f} in pairs, {100 * apart:.1f} if you forget that they are pairs")
print(f"95 % interval in pairs: ± {100 * t_quantile(4) * error:.1f} points")

# %% [markdown]
# Two more things blur an accuracy, and pairing removes neither. A test set of n sentences is itself a draw, with a standard error of about √(p(1−p)/n). And each method has its own best learning rate: comparing two at one rate
# compares the rates. (Lesson 12 is about the search.)
#
# ## Exercise 13.3 · Beaten by none
#
# ★★ · 15 minutes
#
# "Best" needs two numbers at least: what it costs and what it gives. One configuration *beats* another if it costs no more, is no worse, and is better in one of the two. Those that nobody beats are the *frontier*
# (also: Pareto front); only among them is there anything to choose. Write `frontier(points)` for a list of (name, cost, quality). It returns the names, cheapest first.
#
# <details><summary>Nudge</summary>
#
# Write down when q beats p, as one line. Ties are where it goes wrong.
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# q beats p if cost(q) ≤ cost(p) and quality(q) ≥ quality(p), and not both equal. A point never beats itself.
#
# </details>
# <details><summary>Outline</summary>
#
# Keep p if not any(beats(q, p) for q in points); sort what is kept by cost; return the names.
#
# </details>


# %% exercise="13.3"
def frontier(points: list[tuple[str, float, float]]) -> list[str]:
    """Names of the points (name, cost, quality) that no other beats, cheapest first."""
    ### BEGIN SOLUTION
    def beats(q, p):
        return q[1] <= p[1] and q[2] >= p[2] and q[1:] != p[1:]

    kept = [p for p in points if not any(beats(q, p) for q in points)]
    return [name for name, _, _ in sorted(kept, key=lambda p: p[1])]
    ### END SOLUTION


# %% check="13.3"
frontier = check("13.3", frontier)

# %% [markdown]
# ## A real benchmark, small
#
# `benchmark` of the package does all of the above: fresh seeded model for each run, the same data and seeds for all, each method at its own learning rate, times taken in turn. Every result is a file of its own, so that a benchmark
# that is killed goes on where it was. `lora-course bench methods` is the long version. Here are four configurations, on so few sentences that you can wait for them.

# %%
from lora_course.experiments.benchmark import Settings, benchmark, load_histories
from lora_course.experiments.recipes import configuration

settings = Settings(
    train=by_profile(smoke=16, cpu=320, full=6400),
    validation=by_profile(smoke=8, cpu=64, full=500),
    test=by_profile(smoke=16, cpu=256, full=1500),
    batch_size=by_profile(smoke=8, cpu=8, full=32),
    rounds=by_profile(smoke=1, cpu=8, full=30),
)
chosen = [configuration(method) for method in ("full", "lora", "lora_fa", "ia3")]
seeds = range(by_profile(smoke=2, cpu=3, full=5))
folder = Path(tempfile.mkdtemp())
began = time.perf_counter()
rows = benchmark(folder, chosen, seeds, settings, say=lambda line: None)
histories = load_histories(folder)
print(
    f"{len(histories)} runs of {settings.steps()} steps and {len(chosen)} times of {settings.rounds} rounds: "
    f"{time.perf_counter() - began:.0f} s, {histories[0].run.model}, {settings.train} sentences of Rotten Tomatoes, {describe_device(device)}"
)

# %%
from IPython.display import Markdown

from lora_course.tables import in_units, markdown_table

seconds = {shape: cost["seconds"] for shape, cost in json.loads((folder / "results.json").read_text())["costs"].items()}
table = [["", "accuracy", "trained", "peak of a step", "step / LoRA's", "forward / plain", "merged / plain"]]
for config, row in zip(chosen, rows, strict=True):
    taken = seconds[config.shape]
    table.append(
        [
            row["name"],
            f"{row['accuracy']:.3f} ± {row['spread']:.3f}",
            f"{row['trained_parameters']:,}",
            in_units(row["peak_bytes"]),
            f"{median_ratio(taken['step'], taken['reference step'], 0):.2f}",
            f"{median_ratio(taken['unmerged'], taken['plain'], 0):.2f}",
            f"{median_ratio(taken['merged'], taken['plain'], 0):.2f}" if "merged" in taken else "",
        ]
    )
Markdown(markdown_table(table))

# %% [markdown]
# (± is one standard deviation over the seeds.) The three columns of times are medians of your ratios within a round. Read the last two together: an adapter that runs beside its layer makes each forward pass dearer, a merged one costs what the plain model costs.
# Memory is where adapters are ahead: no gradients and no optimizer state for 22 million frozen numbers.
#
# Is any of them *better*? Your two functions:

# %%
accuracy = {
    config.name: {h.run.seed: h.measured["test_accuracy"] for h in histories if h.run.name == config.name}
    for config in chosen
}
for config in chosen[1:]:
    difference, error = paired_difference(accuracy[config.name], accuracy["full"])
    wide = t_quantile(len(seeds)) * error
    verdict = "settled" if abs(difference) > wide else "not settled"
    print(f"{config.name:8s} − full: {100 * difference:+5.1f} points, 95 % interval ± {100 * wide:.1f}: {verdict}")
points = [(row["name"], row["peak_bytes"], row["accuracy"]) for row in rows]
print("beaten by none, by accuracy and peak memory:", ", ".join(frontier(points)))

# %% [markdown]
# With three seeds of forty steps, hardly anything is. That is no failure of the benchmark: it is what it found out, and what a table of three means in bold would have hidden. The frontier knows nothing of this: it takes means at their word.
#
# Here is the long version, all methods with three seeds of 1 000 sentences, as `lora-course bench methods` measured it ([BENCHMARKS.md](../BENCHMARKS.md) says where and how long).

# %%
from lora_course.experiments.measured import load_measured

methods = load_measured("methods")
plots.frontier(methods)

# %% [markdown]
# Bars are one standard deviation over three seeds, and most of them overlap. Again your function, each method against plain LoRA:

# %% tags=["nbval-check-output"]
of_method = {}
for history in methods:
    of_method.setdefault(history.run.name, {})[history.run.seed] = history.measured["test_accuracy"]
for name, found in of_method.items():
    if name == "lora":
        continue
    difference, error = paired_difference(found, of_method["lora"])
    wide = t_quantile(len(found)) * error
    print(f"{name:11s} − lora: {100 * difference:+5.1f} points, 95 % interval ± {100 * wide:4.1f}{'   settled' if abs(difference) > wide else ''}")
full, lora = (next(h for h in methods if h.run.name == name) for name in ("full", "lora"))
trained = full.run.trainable_parameters / lora.run.trainable_parameters
peak = full.measured["peak_bytes"] / lora.measured["peak_bytes"]
print(f"full fine-tuning has {trained:.0f} times the trained numbers of LoRA, and {peak:.1f} times the peak of a step")

# %% [markdown]
# Of fifteen comparisons, one interval leaves out zero: full fine-tuning, two points ahead of LoRA, for 67 times the trained numbers and 2.3 times the peak of a step. And even this one deserves a frown: in 20 comparisons of equals, one 95 % interval misses zero by chance. No other
# adapter is settled against LoRA, neither way. On this task, at these sizes, choosing among them is choosing what to pay with.
#
# ## Inside a run
#
# Numbers at the end do not say *what* changed. `LayerRecorder` is a callback that writes down, every few steps and for each layer, the gradient norms of A and B and the singular values of the change s B A. One number sums up how many directions the change is spread over.
#
# ## Exercise 13.4 · How many directions?
#
# ★★ · 15 minutes
#
# A change with r equal singular values points in r directions. One with a large value and many tiny ones points, for all that matters, in one. Roy and Vetterli (2007) count softly: take the singular values as shares of their sum, and then
# the exponential of the entropy,
#
# $$p_i = \frac{\sigma_i}{\sum_j \sigma_j} \qquad \text{erank} = \exp\Big(-\sum_i p_i \ln p_i\Big).$$
#
# Write `effective_rank(singular_values)` for a list of numbers, 0 or more. Zeros add nothing ($0 \ln 0 = 0$). If all are zero, as in every LoRA before its first step, return 0.
#
# <details><summary>Nudge</summary>
#
# Shares first. What would four equal values give?
#
# </details>
# <details><summary>Bigger nudge</summary>
#
# Leave zeros out before you take a logarithm, and see to the case in which nothing is left.
#
# </details>
# <details><summary>Outline</summary>
#
# total = sum; if it is 0: return 0. p = [v / total for v in values if v > 0]; return exp(−Σ p ln p).
#
# </details>


# %% exercise="13.4"
def effective_rank(singular_values: list[float]) -> float:
    """A soft count of directions."""
    ### BEGIN SOLUTION
    total = sum(singular_values)
    if not total:
        return 0.0
    p = torch.tensor([v / total for v in singular_values if v > 0], dtype=torch.float64)
    return (-(p * p.log()).sum()).exp().item()
    ### END SOLUTION


# %% check="13.4"
effective_rank = check("13.4", effective_rank)

# %% [markdown]
# Before you run: B starts at zero and A does not. Which of the two gradients is zero in the first step? And the gradient of a batch is a sum over many sentences: will the change keep to one direction, or use all eight ranks? (LoRA is in 36 layers of the blocks and in the pooler.)

# %%
from lora_course.assets import load_encoder, load_reviews
from lora_course.training.config import TrainingConfig
from lora_course.training.dynamics import LayerRecorder, change_spectrum
from lora_course.training.sentiment import train_sentiment

splits = load_reviews("rotten_tomatoes")
for split, size in (("train", settings.train), ("validation", settings.validation), ("test", settings.test)):
    splits[split] = splits[split].select(range(size))
seed_everything(0)
model, tokenizer = load_encoder("packaged", base_dropout=0.0)
inject(model, AdapterConfig(rank=8, alpha=16, trainable=["classifier"])).to(device)
history, result = train_sentiment(
    model,
    tokenizer,
    splits,
    TrainingConfig(epochs=1, batch_size=settings.batch_size, learning_rate=2e-3, seed=0),
    optimizer=make_optimizer(model, 2e-3),
    name="LoRA, rank 8",
    progress=False,
    callbacks=[LayerRecorder(model, every=3)],
)
print(result)
plots.training_dynamics(history)

# %%
shown = plots.training_dynamics(history)
print(shown.description)
at = {row.layer: row for row in history.layers if row.step == history.layers[-1].step}
yours = [effective_rank(row.singular_values) for row in at.values()]
print(f"your effective rank, mean of {len(yours)} layers: {statistics.fmean(yours):.2f} of 8")
first = [row for row in history.layers if row.step == 1]
print(f"first step: gradient of A {max(row.grad_norm_A for row in first):g}, of B {max(row.grad_norm_B for row in first):.2g} at most")

# %% [markdown]
# Every figure of `plots` carries such a description, computed from the same data. In the notebook it is the image's alternative text, for those who listen to the page instead of looking at it, and for you, to check what you believe you see.
#
# A's gradient is exactly zero until B has moved, and B only moves once the warm-up lets the learning rate leave zero. After that the change spreads over nearly all of its eight ranks: a low rank is what we gave it, not what it
# would have stopped at. All layers change, but not by equal amounts:

# %%
plots.by_layer(history, "norm")

# %%
layers = adapters(model)
ends = [name for name in layers if name.endswith("intermediate.dense")]
plots.singular_spectrum({f"MLP in, layer {i}": change_spectrum(layers[ends[i]]).tolist() for i in (0, len(ends) // 2, len(ends) - 1)})

# %% [markdown]
# ## What the field says, asked again
#
# Four things are often said of LoRA. `lora-course bench claims` asks each of them again in small: 640 sentences, 40 steps, three seeds for each configuration, for the first and the third with learning rates chosen by validation loss, for the other two with one rate. The verdicts below are computed from those measurements with the functions that you have written (the
# package's copies of them). BENCHMARKS.md has the tables.

# %% tags=["nbval-check-output"]
from lora_course.experiments.claims import CLAIMS

claims = load_measured("claims")
for claim in CLAIMS.values():
    print(f"{claim.title}. {claim.says} ({claim.source})\n  {claim.verdict(claims)}\n")

# %%
plots.learning_rates(CLAIMS["rate"].histories(claims))

# %% [markdown]
# One by one.
#
# **The learning rate** is as clear as anything gets here: two hills of the same height, one ten times to the right of the other. (Their grid cannot tell 10 from 15, which the authors found for very short runs.) Look at how *narrow* they are: one step of the grid, a factor of
# three, costs ten to twenty-six points. Whoever compares two methods "at the same learning rate" compares how near each happens to be to its own top.

# %%
plots.side_by_side(CLAIMS["targets"].histories(claims))

# %% [markdown]
# **Where the adapters go.** Here the attention does *better* than the MLP, with as many trained numbers, and surely so by the intervals. Is the claim wrong, then? It was made for large models and long runs; ours is a model of 22 million parameters and 40 steps. And all four configurations share one learning rate, which we have just seen to
# decide more than anything: the MLP's hill may lie elsewhere. What you may say is what the verdict says: here, at this rate.

# %%
plots.learning_rates(CLAIMS["ratio"].histories(claims))

# %% [markdown]
# **LoRA+** (the axis is the rate of A) has the lower means, with intervals of more than twenty points: some seeds reach plain LoRA's accuracy, others stay at chance. That is not "no effect". It is a question that three seeds of 40 steps cannot answer, and the honest table says so.

# %%
plots.rank_impact(CLAIMS["rank"].histories(claims))

# %% [markdown]
# **The rank** makes the most tempting picture: "accuracy rises with the rank, is best at 16, and then the model overfits". Do not believe it. α = 2r keeps α/r at 2, but BA is a sum over r ranks that all move, so at the same rate a higher rank moves the weights further (lesson 07 has the mathematics). Rank 1 may well want a higher rate than
# 2e-3 and rank 64 a lower one, and then this is the first picture again, in disguise. That is a guess, and you have the means to test it: `lora-course bench methods --methods lora --ranks 1 16 64 --rates 6e-4 2e-3 6e-3 --train 640`.
#
# ## Memory, rank and bits
#
# Two more pictures for your own decisions. Rank and memory: gradients and optimizer state grow in step with the rank, but from rank 1 to 64 the peak of a training step grows by a fifth only, because activations and frozen weights are most of it.

# %%
plots.memory_against_rank(CLAIMS["rank"].histories(claims))

# %% [markdown]
# And the other lever, lesson 10's: what a frozen weight of this encoder loses when it is stored in fewer bits.

# %%
from lora_course.quantization.nf4 import dequantize_nf4, quantize_nf4
from lora_course.quantization.uniform import dequantize_uniform, quantize_uniform

weight = layers[ends[0]].base_layer.weight.detach().cpu()


def relative_error(stored, back):
    """(bits a weight, relative error of the weights)."""
    return 8 * stored.bytes / weight.numel(), ((back - weight).norm() / weight.norm()).item()


errors = {"equal steps, blocks of 64": [], "NF4, blocks of 32 to 1024": []}
for bits in (3, 4, 5, 6, 8):
    stored = quantize_uniform(weight, bits)
    errors["equal steps, blocks of 64"].append(relative_error(stored, dequantize_uniform(stored)))
for block in (32, 64, 256, 1024):
    stored = quantize_nf4(weight, block)
    errors["NF4, blocks of 32 to 1024"].append(relative_error(stored, dequantize_nf4(stored)))
plots.quantization_error(errors)

# %% [markdown]
# ## So, which one?
#
# Nobody can say it for your task, but you can now find out, and most of the way is short:
#
# 1. **Start with plain LoRA on all linear layers**, rank 8 or 16, alpha twice the rank. Above, no other adapter beat it by more than chance explains; full fine-tuning did, by two points.
# 2. **Spend your search on the learning rate**, not on the method: a factor of three there costs as much accuracy as any other choice on this page.
# 3. **Let costs choose among equals.** Memory of activations too large: LoRA-FA (lesson 05), or checkpointing (09). Memory of weights: a quantized base (10). A file of some hundred kilobytes: VeRA or (IA)³. Time of a step: avoid what builds
#    the whole change of the weight in every forward pass, such as LoHa and LoKr here.
# 4. **Before you believe that B is better than A**, give both the same seeds and a learning rate of their own, and look at the interval. If it holds zero, say so, and take the simpler one.
#
# ## Self-test
#
# Answer before you open them.
#
# <details><summary>1. A paper reports 79.3 for its method and 78.9 for LoRA, one seed each, 1 000 test examples. What do you know?</summary>
#
# Next to nothing. One standard error of 1 000 examples at 79 % is 1.3 points, the difference is 0.4, and nothing says how far two seeds of the *same* method lie apart. Ask for several seeds, paired, and for LoRA's own learning rate.
#
# </details>
# <details><summary>2. On a GPU, a step of your method takes 0.3 ms and LoRA's takes 41 ms. What happened?</summary>
#
# Probably the clock was read while the work was still in the queue, or LoRA's first step, with all that happens once, was timed. Synchronise before both readings, warm up, take turns.
#
# </details>
# <details><summary>3. A configuration lies on the frontier. Is it better than one that does not?</summary>
#
# By the means that were measured it is beaten by none. But means have errors: a point may be on the frontier by luck, and the one just below it may be as good. And a frontier of accuracy and parameters says nothing of time.
#
# </details>
#
# ## Reading
#
# - Schulman et al. 2025, [LoRA Without Regret](https://thinkingmachines.ai/blog/lora/): the learning rates and the layers, at a scale where they can be seen.
# - Hu et al. 2021, [LoRA](https://arxiv.org/abs/2106.09685): section 7.2 asks how small a rank may be.
# - Hayou, Ghosh, Yu 2024, [LoRA+](https://arxiv.org/abs/2402.12354): why B should learn faster, in the limit of wide layers.
# - Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", EUSIPCO: two pages are enough.
# - Lesson 09 for counting bytes, lesson 12 for searching what is compared here.
