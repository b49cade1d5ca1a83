"""The table of a benchmark: rows from runs and costs, and the files that they are written to."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lora_course.device import choose_device, describe_device
from lora_course.experiments.costs import PLAIN, REFERENCE_STEP, STEP, Cost
from lora_course.experiments.figure import Plot
from lora_course.experiments.recipes import RECIPES, Configuration
from lora_course.experiments.statistics import quartiles, ratios
from lora_course.tables import in_units, markdown_table, without_nan
from lora_course.training.history import library_versions

REFERENCE = "lora"  # whose step is the unit of step times
FIGURE = "frontier.png"


@dataclass(frozen=True)
class RunResult:
    """One configuration, one seed, judged on the test reviews. Accuracy and losses are NaN if the run diverged."""

    name: str
    seed: int
    accuracy: float
    f1: float
    loss: float
    validation_loss: float
    n: int
    train_seconds: float
    test_seconds: float
    device: str
    model: str


def table_rows(
    configurations: Sequence[Configuration], runs: Sequence[RunResult], costs: Mapping[str, Cost]
) -> list[dict[str, Any]]:
    """One row for each configuration. costs: by shape.

    accuracy, losses: means over the seeds; spread: the standard deviation (n - 1), NaN for a single one.
    step_ratio: its step over the reference's in the same round, median and quartiles. unmerged_ratio, merged_ratio: a
    forward pass over the plain model's; None where nothing can be merged.
    """
    rows = []
    for chosen in configurations:
        mine = [result for result in runs if result.name == chosen.name]
        cost = costs[chosen.shape]
        seconds, measured = cost.seconds, cost.measured()
        low, middle, high = quartiles(ratios(seconds[STEP], seconds[REFERENCE_STEP]))
        found = [result.accuracy for result in mine]
        rows.append(
            {
                "name": chosen.name,
                "method": chosen.method,
                "rank": chosen.recipe.rank,
                "targets": chosen.recipe.targets,
                "learning_rate": chosen.recipe.learning_rate,
                "ratio": chosen.recipe.ratio,
                "accuracy": statistics.fmean(found),
                "spread": statistics.stdev(found) if len(found) > 1 else math.nan,
                "seeds": len(found),
                "loss": statistics.fmean(result.loss for result in mine),
                "validation_loss": statistics.fmean(result.validation_loss for result in mine),
                "train_seconds": statistics.median(result.train_seconds for result in mine),
                "trained_parameters": cost.trained,
                "saved_bytes": cost.saved_bytes,
                "state_bytes": cost.state_bytes,
                "peak_bytes": cost.peak_bytes,
                "step_ms": 1000 * statistics.median(seconds[STEP]),
                "step_ratio": middle,
                "step_ratio_low": low,
                "step_ratio_high": high,
                "plain_ms": 1000 * statistics.median(seconds[PLAIN]),
                "unmerged_ratio": measured["unmerged_ratio"],
                "merged_ratio": measured.get("merged_ratio"),
            }
        )
    return rows


def report_files(
    rows: Sequence[Mapping[str, Any]],
    runs: Sequence[RunResult],
    costs: Mapping[str, Cost],
    settings: Mapping[str, int],
    plot: Plot,
) -> dict[str, bytes]:
    """File name -> content. JSON has everything, null for NaN; CSV and Markdown have a row for each configuration.

    plot: the frontier.
    """
    machine = {"device": describe_device(choose_device()), "processor": platform.machine(), **library_versions()}
    everything = {
        "settings": dict(settings),
        "machine": machine,
        "rows": rows,
        "runs": [asdict(result) for result in runs],
        "costs": {shape: asdict(cost) for shape, cost in costs.items()},
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return {
        "results.json": (json.dumps(without_nan(everything), indent=1) + "\n").encode(),
        "results.csv": text.getvalue().encode(),
        "report.md": markdown(rows, runs, settings, machine, plot.alternative_text).encode(),
        FIGURE: plot.png(),
    }


def markdown(
    rows: Sequence[Mapping[str, Any]],
    runs: Sequence[RunResult],
    settings: Mapping[str, int],
    machine: Mapping[str, str],
    description: str,
) -> str:
    """The table with all that one needs to read it: model, data, spread, device, seconds, versions."""
    header = ["configuration", "accuracy", "trained", "saved", "peak", "training", f"step / {REFERENCE}'s"]
    header += ["unmerged", "merged", "learning rate", "besides"]
    cells = [
        [
            row["name"],
            _accuracy(row),
            f"{row['trained_parameters']:,}",
            in_units(row["saved_bytes"]),
            in_units(row["peak_bytes"]),
            f"{row['train_seconds']:.0f} s",
            f"{row['step_ratio']:.2f} ({row['step_ratio_low']:.2f} to {row['step_ratio_high']:.2f})",
            f"{row['unmerged_ratio']:.2f}",
            "" if row["merged_ratio"] is None else f"{row['merged_ratio']:.2f}",
            f"{row['learning_rate']:g}",
            _besides(row),
        ]
        for row in rows
    ]
    first, seeds = runs[0], len({result.seed for result in runs})
    accuracy = max((row["accuracy"] for row in rows if not math.isnan(row["accuracy"])), default=0.5)
    seconds = sum(result.train_seconds + result.test_seconds for result in runs)
    libraries = ", ".join(f"{name} {version}" for name, version in machine.items() if name != "device")
    times = "once" if settings["epochs"] == 1 else f"{settings['epochs']} times"
    return f"""# Methods on the same task

{first.model} with a new head; every linear layer adapted, rank 8 unless it says otherwise. Rotten Tomatoes:
{settings["train"]} sentences, {times}, in batches of {settings["batch_size"]}; judged on {first.n} others.

{markdown_table([header, *cells])}

![{description}]({FIGURE})

- accuracy: mean ± standard deviation over {seeds} seed(s). All are judged on the same {first.n} sentences; another
  {first.n} would change the best accuracy by about {100 * math.sqrt(accuracy * (1 - accuracy) / first.n):.1f} points
  (one standard error).
- saved: kept for the backward pass of one batch, weights left out. peak: all tensors alive at once in a step, weights
  included.
- training: seconds of a run, median over the seeds; evaluations left out.
- step: forward, backward and optimizer on one batch, divided by {REFERENCE}'s in the same round. In each of the
  {settings["rounds"]} rounds all that is compared takes turns; median, and quartiles over the rounds.
- unmerged, merged: a forward pass of the fine-tuned model over one of the plain model, the same way. Nothing stands
  where there is nothing to merge, or no way to.

{len(runs)} runs, {seconds:.0f} s of training and testing, on {first.device}. {libraries}.
"""


def _besides(row: Mapping[str, Any]) -> str:
    recipe = RECIPES[row["method"]]
    unusual = row["rank"] != 8 and "rank" not in recipe.note and "r=" not in row["name"]
    rank = f"rank {row['rank']}" if unusual else ""
    return ", ".join(part for part in (rank, recipe.note) if part)


def _accuracy(row: Mapping[str, Any]) -> str:
    if math.isnan(row["accuracy"]):
        return "diverged"
    return f"{row['accuracy']:.3f}" + ("" if math.isnan(row["spread"]) else f" ± {row['spread']:.3f}")
