"""Configurations on the same task: what each reaches, what it trains, what it needs in memory, how long it takes.

run     one configuration, one seed: fine-tune the encoder, judge it on the test split       a file each
cost    one shape of configuration: parameters, bytes and times beside plain LoRA's          a file each (costs.py)
report  both, as CSV, JSON, Markdown and a figure (benchmark_report.py)
A file that is there is never made twice, so a benchmark that is killed loses what it was just doing and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from lora_course.atomic import write_files
from lora_course.experiments.benchmark_report import REFERENCE, RunResult, report_files, table_rows
from lora_course.experiments.costs import Cost, cost_of
from lora_course.experiments.plots import frontier
from lora_course.experiments.recipes import (
    WARMUP,
    Configuration,
    Loader,
    configuration,
    first_reviews,
    load_without_dropout,
    prepare,
)
from lora_course.training.config import TrainingConfig
from lora_course.training.history import History
from lora_course.training.loop import TrainingDiverged
from lora_course.training.sentiment import train_sentiment

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Settings:
    """What all runs of one benchmark share: so many reviews, the first of each split, for every run."""

    train: int = 1000
    validation: int = 200  # looked at once, at the end of each epoch; learning rates are chosen by them
    test: int = 800
    epochs: int = 1
    batch_size: int = 16
    rounds: int = 15  # of the interleaved timing

    def steps(self) -> int:
        return self.epochs * math.ceil(self.train / self.batch_size)


def load_rotten_tomatoes() -> Any:
    from lora_course.assets import load_reviews

    return load_reviews("rotten_tomatoes")


def benchmark(
    out: Path,
    configurations: Sequence[Configuration],
    seeds: Sequence[int],
    settings: Settings,
    load: Loader = load_without_dropout,
    reviews: Callable[[], Any] = load_rotten_tomatoes,
    say: Callable[[str], object] = print,
) -> list[dict[str, Any]]:
    """Do what is not in `out` yet, write the report's files there, and return the table's rows.

    say: called with a line for each thing done.
    Raises ValueError if there are fewer reviews than asked for, or `out` holds results of other settings.
    """
    splits = reviews()
    splits = {split: first_reviews(splits[split], getattr(settings, split), split) for split in SPLITS}
    for folder in ("runs", "costs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for half_written in (out / folder).glob(".*.json.*"):  # by a benchmark that was killed
            half_written.unlink(missing_ok=True)
    runs = _runs(out, configurations, seeds, settings, splits, load, say)
    costs = _costs(out, configurations, settings, splits, load, say)
    rows = table_rows(configurations, runs, costs)
    names = {chosen.name for chosen in configurations}
    plot = frontier([history for history in load_histories(out) if history.run.name in names])
    files = report_files(rows, runs, costs, asdict(settings), plot)
    write_files({out / name: data for name, data in files.items()})
    return rows


def _runs(out, configurations, seeds, settings, splits, load, say) -> list[RunResult]:
    todo = [(chosen, seed) for seed in seeds for chosen in configurations]
    runs: list[RunResult] = []
    new, began = 0, perf_counter()
    for i, (chosen, seed) in enumerate(todo, 1):
        path = out / "runs" / f"{chosen.file}-{seed}.json"
        identity = {**asdict(settings), **chosen.to_dict()}
        if path.exists():
            runs.append(RunResult(**_read(path, identity)["result"]))
            continue
        result, history = run(chosen, seed, settings, splits, load)
        record = {"settings": identity, "shape": chosen.shape, "result": asdict(result), "history": history.to_dict()}
        _write(path, record)
        runs.append(result)
        new += 1
        left = (perf_counter() - began) / new * (len(todo) - i)
        say(
            f"[{i}/{len(todo)}] {chosen.name}, seed {seed}: accuracy {result.accuracy:.3f} on {result.n}, "
            f"{result.train_seconds:.0f} s of training; about {left / 60:.0f} min left"
        )
    return runs


def _costs(out, configurations, settings, splits, load, say) -> dict[str, Cost]:
    shapes = {chosen.shape: chosen for chosen in (configuration(REFERENCE), *configurations)}
    costs = {}
    for shape, chosen in shapes.items():
        path = out / "costs" / f"{shape}.json"
        identity = {"batch_size": settings.batch_size, "rounds": settings.rounds, "shape": shape}
        if path.exists():
            costs[shape] = Cost(**_read(path, identity)["result"])
            continue
        say(f"{settings.rounds} steps and forward passes of {shape} beside {REFERENCE}'s, for their times")
        costs[shape] = cost_of(chosen, configuration(REFERENCE), settings, splits["train"], load)
        _write(path, {"settings": identity, "result": asdict(costs[shape])})
    return costs


def run(
    chosen: Configuration, seed: int, settings: Settings, splits: Mapping[str, Any], load: Loader
) -> tuple[RunResult, History]:
    """Fine-tune a fresh model and judge it; what the test says is in the history's `measured` too."""
    torch.manual_seed(seed)  # of the new head
    model, tokenizer = load()
    model, optimizer = prepare(chosen.method, model, chosen.recipe, settings.steps(), seed)
    config = TrainingConfig(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=chosen.recipe.learning_rate,
        warmup_fraction=WARMUP,
        seed=seed,
    )
    try:
        history, test = train_sentiment(
            model,
            tokenizer,
            splits,
            config,
            optimizer=optimizer,
            name=chosen.name,
            dataset="Rotten Tomatoes",
            progress=False,
        )
        scores = (test.accuracy, test.f1, test.loss, history.evaluations[-1].metrics["loss"], test.n)
        seconds = (history.summary.seconds, test.seconds)
    except TrainingDiverged as error:
        history, scores, seconds = error.history, (math.nan,) * 4 + (len(splits["test"]),), (0.0, 0.0)
    result = RunResult(chosen.name, seed, *scores, *seconds, history.run.device, history.run.model)
    history.measured |= {"test_accuracy": result.accuracy, "test_loss": result.loss, "test_samples": result.n}
    return result, history


def load_histories(out: Path) -> list[History]:
    """The histories of all runs in a benchmark's folder, with the costs of their shapes in `measured`."""
    histories = []
    for path in sorted((out / "runs").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        history = History.from_dict(record["history"])
        cost = out / "costs" / f"{record['shape']}.json"
        if cost.exists():
            history.measured |= Cost(**json.loads(cost.read_text(encoding="utf-8"))["result"]).measured()
        histories.append(history)
    return histories


def _read(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = record["settings"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is no result of this benchmark ({error}): remove it to run it again") from None
    if found != identity:
        changed = ", ".join(f"{k} {found.get(k)} there, {v} here" for k, v in identity.items() if found.get(k) != v)
        raise ValueError(f"{path} is a run of other settings ({changed}): use another folder, or remove this one")
    return record


def _write(path: Path, record: Mapping[str, Any]) -> None:
    write_files({path: json.dumps(record, indent=1)})
