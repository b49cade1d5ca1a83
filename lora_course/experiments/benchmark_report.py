"""The table of a benchmark of methods: rows from runs and costs, and the three files that they are written to."""

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
from lora_course.experiments.recipes import RECIPES
from lora_course.tables import in_units, markdown_table
from lora_course.training.history import library_versions

REFERENCE = "lora"  # whose step is the unit of step times


@dataclass(frozen=True)
class RunResult:
    """One method, one seed, judged on the test reviews. Accuracy and loss are NaN if the run diverged."""

    method: str
    seed: int
    accuracy: float
    f1: float
    loss: float
    n: int
    learning_rate: float
    train_seconds: float
    test_seconds: float
    device: str
    model: str


@dataclass(frozen=True)
class Cost:
    """step_seconds: one for each round; round i of all methods ran side by side, on the same batch."""

    method: str
    trained: int
    saved_bytes: int
    step_seconds: list[float]


def table_rows(runs: Sequence[RunResult], costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """One row for each method. spread: the standard deviation over the seeds (n - 1), NaN for a single one.

    step_ratio: the median over the rounds of its step time over the reference's in the same round.
    """
    by_method = {cost.method: cost for cost in costs}
    unit = by_method[REFERENCE].step_seconds
    rows = []
    for method in dict.fromkeys(result.method for result in runs):
        found = [result.accuracy for result in runs if result.method == method]
        cost = by_method[method]
        ratios = [mine / theirs for mine, theirs in zip(cost.step_seconds, unit, strict=True)]
        rows.append(
            {
                "method": method,
                "accuracy": statistics.fmean(found),
                "spread": statistics.stdev(found) if len(found) > 1 else math.nan,
                "seeds": len(found),
                "trained_parameters": cost.trained,
                "saved_bytes": cost.saved_bytes,
                "step_ms": 1000 * statistics.median(cost.step_seconds),
                "step_ratio": statistics.median(ratios),
                "learning_rate": RECIPES[method].learning_rate,
            }
        )
    return rows


def report_files(
    rows: Sequence[Mapping[str, Any]], runs: Sequence[RunResult], costs: Sequence[Cost], settings: Mapping[str, int]
) -> dict[str, str]:
    """File name -> text. JSON has everything, with null for NaN; CSV and Markdown one row for each method."""
    machine = {"device": describe_device(choose_device()), "processor": platform.machine(), **library_versions()}
    everything = {
        "settings": dict(settings),
        "machine": machine,
        "rows": rows,
        "runs": [asdict(result) for result in runs],
        "costs": [asdict(cost) for cost in costs],
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return {
        "results.json": json.dumps(_without_nan(everything), indent=1) + "\n",
        "results.csv": text.getvalue(),
        "report.md": markdown(rows, runs, settings, machine),
    }


def markdown(
    rows: Sequence[Mapping[str, Any]],
    runs: Sequence[RunResult],
    settings: Mapping[str, int],
    machine: Mapping[str, str],
) -> str:
    """The table with all that one needs to read it: model, data, spread, device, seconds, versions."""
    header = ["method", "accuracy", "trained", "saved", "step", f"step / {REFERENCE}'s", "learning rate", "besides"]
    cells = [
        [
            row["method"],
            _accuracy(row),
            f"{row['trained_parameters']:,}",
            in_units(row["saved_bytes"]),
            f"{row['step_ms']:.0f} ms",
            f"{row['step_ratio']:.2f}",
            f"{row['learning_rate']:g}",
            _besides(row["method"]),
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

- accuracy: mean ± standard deviation over {seeds} seed(s). All are judged on the same {first.n} sentences; another
  {first.n} would change the best accuracy by about {100 * math.sqrt(accuracy * (1 - accuracy) / first.n):.1f} points
  (one standard error).
- saved: for the backward pass of one batch, weights left out.
- step: forward, backward and optimizer on one batch; median of {settings["rounds"]} rounds in which the methods took
  turns. The ratio is the median of the ratios within a round.

{len(runs)} runs, {seconds:.0f} s of training and testing, on {first.device}. {libraries}.
"""


def _besides(method: str) -> str:
    recipe = RECIPES[method]
    rank = f"rank {recipe.rank}" if recipe.rank != 8 and "rank" not in recipe.note else ""
    return ", ".join(part for part in (rank, recipe.note) if part)


def _accuracy(row: Mapping[str, Any]) -> str:
    if math.isnan(row["accuracy"]):
        return "diverged"
    return f"{row['accuracy']:.3f}" + ("" if math.isnan(row["spread"]) else f" ± {row['spread']:.3f}")


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    return [_without_nan(part) for part in value] if isinstance(value, list | tuple) else value
