"""What the field says about LoRA, asked again in small: some configurations for each claim, and a verdict.

Learning rates are chosen by the loss on the validation sentences, verdicts go by accuracy on the test sentences, and by
differences between runs of the same seed. A claim "is not settled here" where such a difference is smaller than what
chance explains: a small model, a short run and three seeds can fail to show what is true elsewhere.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_course.atomic import write_files
from lora_course.experiments.benchmark import load_histories
from lora_course.experiments.figure import Plot
from lora_course.experiments.plots import learning_rates, rank_impact, side_by_side
from lora_course.experiments.recipes import Configuration, configuration, grid
from lora_course.experiments.statistics import paired_difference, t_quantile
from lora_course.tables import markdown_table
from lora_course.training.history import History

FULL_RATES = (2e-5, 6e-5, 2e-4, 6e-4, 2e-3)
LORA_RATES = (2e-4, 6e-4, 2e-3, 6e-3, 2e-2)  # ten times as high, so that the grid can say "ten"
PLUS_RATES = {4: (2e-4, 6e-4, 2e-3), 16: (6e-5, 2e-4, 6e-4)}  # of A, so that B's are about 1e-3, 3e-3, 1e-2
FULL_GRID = grid(["full"], rates=FULL_RATES)
LORA_GRID = grid(["lora"], rates=LORA_RATES)
PLUS_GRID = {
    ratio: [configuration("lora", ratio=ratio, learning_rate=rate, optimizer="lora_plus") for rate in rates]
    for ratio, rates in PLUS_RATES.items()
}
# 30 720 numbers a block each, the last one 27 648: query, value 1 536 r; attention 3 072 r; MLP 3 840 r; all 6 912 r
SAME_SIZE = [configuration("lora", targets=t, rank=r) for t, r in (("query-value", 20), ("attention", 10), ("mlp", 8))]
RANKS = [configuration("lora", rank=rank) for rank in (1, 4, 16, 64)]
EVERYWHERE = RANKS[1]


@dataclass(frozen=True)
class Claim:
    """says, source: the claim and whose it is. verdict: histories of all the configurations -> one sentence or more."""

    title: str
    says: str
    source: str
    configurations: Sequence[Configuration]
    verdict: Callable[[Sequence[History]], str]
    plot: Callable[[Sequence[History]], Plot]

    def histories(self, histories: Sequence[History]) -> list[History]:
        """Those of this claim, in the order of its configurations."""
        return [h for chosen in self.configurations for h in histories if h.run.name == chosen.name]


def accuracies(histories: Sequence[History], chosen: Configuration) -> dict[int, float]:
    """seed -> test accuracy. Raises ValueError if the configuration was not run."""
    found = {h.run.seed: h.measured["test_accuracy"] for h in histories if h.run.name == chosen.name}
    if not found:
        raise ValueError(f"no run of {chosen.name!r} among {len(histories)} histories")
    return found


def validation_loss(histories: Sequence[History], chosen: Configuration) -> float:
    """The mean over the seeds at the end of training; infinite if one diverged."""
    runs = [h for h in histories if h.run.name == chosen.name]
    ends = [h.evaluations[-1].metrics["loss"] if h.evaluations else math.inf for h in runs]
    return statistics.fmean(ends) if ends else math.inf


def best(histories: Sequence[History], configurations: Sequence[Configuration]) -> Configuration:
    """The one with the lowest validation loss."""
    return min(configurations, key=lambda chosen: validation_loss(histories, chosen))


def compare(histories: Sequence[History], a: Configuration, b: Configuration) -> tuple[str, int]:
    """What a is to b in words, and 1, 0 or -1: surely better, not settled, surely worse (95 %)."""
    mine, theirs = accuracies(histories, a), accuracies(histories, b)
    difference, error = paired_difference(mine, theirs)
    wide = t_quantile(len(mine.keys() & theirs.keys())) * error
    sign = 0 if not abs(difference) > wide else int(math.copysign(1, difference))
    said = f"{a.name} − {b.name}: {100 * difference:+.1f} points, 95 % interval ± {100 * wide:.1f}"
    return said, sign


def rate_verdict(histories: Sequence[History]) -> str:
    full, lora = best(histories, FULL_GRID), best(histories, LORA_GRID)
    ratio = lora.recipe.learning_rate / full.recipe.learning_rate
    edge = [c.name for c, g in ((full, FULL_GRID), (lora, LORA_GRID)) if c in (g[0], g[-1])]
    said, _ = compare(histories, lora, full)
    outcome = "It holds here" if 3 < ratio < 30 else "It does not hold here"
    caveat = f" But {' and '.join(edge)} lies at the end of its grid: the best may lie beyond." if edge else ""
    return (
        f"{outcome}: by validation loss the best rate of full fine-tuning is {full.recipe.learning_rate:g} and LoRA's "
        f"{lora.recipe.learning_rate:g}, {ratio:.0f} times as high, on a grid with steps of about 3.{caveat} {said}."
    )


def target_verdict(histories: Sequence[History]) -> str:
    query_value, attention, mlp = SAME_SIZE
    pairs = [compare(histories, mlp, attention), compare(histories, mlp, query_value)]
    pairs.append(compare(histories, EVERYWHERE, mlp))
    outcome = {1: "It holds here", 0: "It is not settled here", -1: "The opposite holds here"}[pairs[0][1]]
    numbers = "; ".join(said for said, _ in pairs)
    return f"{outcome}. With as many trained numbers, and one learning rate for all: {numbers}."


def ratio_verdict(histories: Sequence[History]) -> str:
    plain = best(histories, LORA_GRID)
    found = {ratio: best(histories, configurations) for ratio, configurations in PLUS_GRID.items()}
    compared = [compare(histories, chosen, plain) for chosen in found.values()]
    signs = [sign for _, sign in compared]
    outcome = {1: "It holds here", 0: "It is not settled here", -1: "The opposite holds here"}[max(signs)]
    rates = ", ".join(
        f"{c.recipe.learning_rate:g} and {c.recipe.learning_rate * ratio:g} at ratio {ratio}"
        for ratio, c in found.items()
    )
    return (
        f"{outcome}. Each ratio at its best rate: {'; '.join(said for said, _ in compared)}. The best rates of A and B "
        f"are {plain.recipe.learning_rate:g} for both at ratio 1, {rates}."
    )


def rank_verdict(histories: Sequence[History]) -> str:
    least, *_, most = RANKS
    top = best(histories, RANKS)
    if top is least:
        return f"It holds here, at one learning rate for all: by validation loss no rank beats {least.recipe.rank}."
    said, sign = compare(histories, top, least)
    outcome = "It does not hold here" if sign == 1 else "It is not settled here"
    others = "" if top is most else f"; {compare(histories, most, least)[0]}"
    rank = f"the best rank by validation loss is {top.recipe.rank}"
    return f"{outcome}. At one learning rate for all, {rank}: {said}{others}."


CLAIMS = {
    "rate": Claim(
        "The learning rate",
        "LoRA's best learning rate is about ten times that of full fine-tuning.",
        "Schulman et al. 2025, LoRA Without Regret",
        [*FULL_GRID, *LORA_GRID],
        rate_verdict,
        learning_rates,
    ),
    "targets": Claim(
        "Where the adapters go",
        "Adapters on the MLP matter most; on attention alone as many numbers do less.",
        "Schulman et al. 2025, LoRA Without Regret",
        [*SAME_SIZE, EVERYWHERE],
        target_verdict,
        side_by_side,
    ),
    "ratio": Claim(
        "LoRA+",
        "B should learn faster than A, about 16 times.",
        "Hayou, Ghosh, Yu 2024, arXiv:2402.12354",
        [*LORA_GRID, *(chosen for plus in PLUS_GRID.values() for chosen in plus)],
        ratio_verdict,
        learning_rates,
    ),
    "rank": Claim(
        "The rank",
        "On small data the rank hardly matters: 1 does nearly what 64 does.",
        "Hu et al. 2021, arXiv:2106.09685, section 7.2",
        RANKS,
        rank_verdict,
        rank_impact,
    ),
}


def all_configurations() -> list[Configuration]:
    """Every configuration that a claim needs, once."""
    return [*{chosen.name: chosen for claim in CLAIMS.values() for chosen in claim.configurations}.values()]


def claim_table(claim: Claim, histories: Sequence[History]) -> str:
    """Markdown: one row for each configuration."""
    cells = []
    for chosen in claim.configurations:
        runs = [h for h in histories if h.run.name == chosen.name]
        found = [*accuracies(histories, chosen).values()]
        spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
        trained = f"{runs[0].run.trainable_parameters:,}"
        loss = f"{validation_loss(histories, chosen):.3f}"
        cells.append([chosen.name, trained, loss, f"{statistics.fmean(found):.3f}{spread}"])
    return markdown_table([["configuration", "trained", "validation loss", "test accuracy"], *cells])


def report(histories: Sequence[History], figures: dict[str, str]) -> str:
    """A section of Markdown. figures: claim -> where its picture is."""
    first = histories[0]
    seeds = ", ".join(map(str, sorted({h.run.seed for h in histories})))
    seconds = sum(h.summary.seconds + h.summary.evaluation_seconds for h in histories if h.summary)
    parts = [
        "# What the field says, asked again in small",
        f"{first.run.model} on {first.run.dataset}, {first.evaluations[-1].step} steps; judged on "
        f"{first.measured['test_samples']} other sentences; seeds {seeds}. Written by `lora-course bench claims` on "
        f"{first.run.device}, torch {first.run.versions['torch']}: {len(histories)} runs, {seconds:.0f} s of training "
        "and validation. Learning rates are chosen by validation loss where a claim is about them, and one for all "
        "where it is not; intervals are of differences between runs of the same seed.",
    ]
    for key, claim in CLAIMS.items():
        mine = claim.histories(histories)
        parts += [f"## {claim.title}", f"*{claim.says}* ({claim.source})", claim.verdict(histories)]
        parts += [f"![{claim.plot(mine).alternative_text}]({figures[key]})"] if key in figures else []
        parts.append(claim_table(claim, histories))
    return "\n\n".join(parts) + "\n"


def write_report(out: Path) -> tuple[str, list[str]]:
    """claims.md and a figure for each claim, from what the benchmark left in `out`; returns their names."""
    histories = load_histories(out)
    figures = {key: f"{key}.png" for key in CLAIMS}
    plots = {figures[key]: claim.plot(claim.histories(histories)).png() for key, claim in CLAIMS.items()}
    files = {**plots, "claims.md": report(histories, figures)}
    write_files({out / name: data for name, data in files.items()})
    return "claims.md", [*plots]
