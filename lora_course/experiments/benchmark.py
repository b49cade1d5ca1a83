"""Every method on the same task: what it reaches, what it trains, what it keeps in memory, how long a step takes.

run     one method, one seed: fine-tune the encoder, judge it on the test split       a file each, never run twice
cost    one method: trained parameters, saved bytes, and the times of its steps       all methods in one interleaved run
report  both, as CSV, JSON and Markdown (benchmark_report.py)
A killed benchmark goes on with the run that was in progress.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from lora_course.adapters.report import parameter_report
from lora_course.atomic import replace_files
from lora_course.device import choose_device
from lora_course.experiments.benchmark_report import REFERENCE, Cost, RunResult, report_files, table_rows
from lora_course.experiments.recipes import RECIPES, WARMUP, prepare
from lora_course.memory import measure
from lora_course.training.batching import pad_collate
from lora_course.training.config import TrainingConfig
from lora_course.training.loop import TrainingDiverged
from lora_course.training.metrics import synchronize
from lora_course.training.sentiment import tokenize_reviews, train_sentiment

SPLITS = ("train", "validation", "test")
WARM_UP_ROUNDS = 3


@dataclass(frozen=True)
class Settings:
    """What all runs of one benchmark share: so many reviews, the first of each split, for every run."""

    train: int = 1000
    validation: int = 200  # looked at once, at the end of each epoch; for the histories
    test: int = 800
    epochs: int = 1
    batch_size: int = 16
    rounds: int = 15  # of the interleaved timing

    def steps(self) -> int:
        return self.epochs * math.ceil(self.train / self.batch_size)


Loader = Callable[[], tuple[Any, Any]]  # a fresh model with a new head, and its tokenizer


def load_packaged() -> tuple[Any, Any]:
    """The packaged encoder without dropout, on the device of this machine."""
    from lora_course.assets import load_encoder

    model, tokenizer = load_encoder("packaged", base_dropout=0.0)
    return model.to(choose_device()), tokenizer


def load_rotten_tomatoes() -> Any:
    from lora_course.assets import load_reviews

    return load_reviews("rotten_tomatoes")


def benchmark(
    out: Path,
    methods: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    load: Loader = load_packaged,
    reviews: Callable[[], Any] = load_rotten_tomatoes,
    say: Callable[[str], object] = print,
) -> list[dict[str, Any]]:
    """Do what is not in `out` yet, write results.json, results.csv and report.md there, and return the table's rows.

    say: called with a line for each thing done.
    Raises ValueError if there are fewer reviews than asked for, or `out` holds runs of other settings.
    """
    splits = reviews()
    splits = {split: _first(splits[split], getattr(settings, split), split) for split in SPLITS}
    (out / "runs").mkdir(parents=True, exist_ok=True)
    todo = [(method, seed) for seed in seeds for method in methods]
    runs: list[RunResult] = []
    new, began = 0, perf_counter()
    for i, (method, seed) in enumerate(todo, 1):
        path = out / "runs" / f"{method}-{seed}.json"
        if path.exists():
            runs.append(RunResult(**_read(path, _identity(settings, method))["result"]))
            continue
        result, history = run(method, seed, settings, splits, load)
        record = {"settings": _identity(settings, method), "result": asdict(result), "history": history}
        _write(path, json.dumps(record, indent=1))
        runs.append(result)
        new += 1
        left = (perf_counter() - began) / new * (len(todo) - i)
        say(
            f"[{i}/{len(todo)}] {method}, seed {seed}: accuracy {result.accuracy:.3f} on {result.n}, "
            f"{result.train_seconds:.0f} s of training; about {left / 60:.0f} min left"
        )
    costs = _costs(out, methods, settings, splits, load, say)
    rows = table_rows(runs, costs)
    files = report_files(rows, runs, costs, asdict(settings))
    replace_files({out / name: partial(_fill, text=text) for name, text in files.items()})
    return rows


def run(
    method: str, seed: int, settings: Settings, splits: Mapping[str, Any], load: Loader
) -> tuple[RunResult, dict[str, Any]]:
    """Fine-tune a fresh model and judge it. The history comes as plain dicts."""
    recipe = RECIPES[method]
    torch.manual_seed(seed)  # of the new head
    model, tokenizer = load()
    model, optimizer = prepare(method, model, recipe, settings.steps(), seed)
    config = TrainingConfig(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=recipe.learning_rate,
        warmup_fraction=WARMUP,
        seed=seed,
    )
    try:
        history, test = train_sentiment(
            model, tokenizer, splits, config, optimizer=optimizer, name=f"{method}-{seed}", dataset="Rotten Tomatoes"
        )
        scores = (test.accuracy, test.f1, test.loss, test.n)
        seconds = (history.summary.seconds, test.seconds)
    except TrainingDiverged as error:
        history, scores, seconds = error.history, (math.nan, math.nan, math.nan, len(splits["test"])), (0.0, 0.0)
    device, name = history.run.device, history.run.model
    return RunResult(method, seed, *scores, recipe.learning_rate, *seconds, device, name), history.to_dict()


def costs_of(methods: Sequence[str], settings: Settings, splits: Mapping[str, Any], load: Loader) -> list[Cost]:
    """Trained parameters, saved bytes and step times on the first batch of the training reviews.

    All models are in memory at once. In each round every method takes one step, beginning with another each time, so
    that a slow moment of the machine falls on all alike.
    """
    rounds = WARM_UP_ROUNDS + settings.rounds
    steps, counted, taken = {}, {}, {method: [] for method in methods}
    for method in methods:
        torch.manual_seed(0)
        model, tokenizer = load()
        model, optimizer = prepare(method, model, RECIPES[method], total_steps=rounds, seed=0)
        device = next(model.parameters()).device
        tokenized = tokenize_reviews(splits["train"].select(range(min(settings.batch_size, settings.train))), tokenizer)
        batch = pad_collate([tokenized[i] for i in range(len(tokenized))], tokenizer.pad_token_id)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        model.train()
        counted[method] = parameter_report(model).trainable, measure(model, batch).saved
        steps[method] = _stepper(model, optimizer, batch, device)
    for i in range(rounds):
        for j in range(len(methods)):
            method = methods[(i + j) % len(methods)]
            seconds = steps[method]()
            if i >= WARM_UP_ROUNDS:
                taken[method].append(seconds)
    return [Cost(method, *counted[method], taken[method]) for method in methods]


def _stepper(model, optimizer, batch, device) -> Callable[[], float]:
    def step() -> float:
        synchronize(device)
        began = perf_counter()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)
        return perf_counter() - began

    return step


def _costs(out, methods, settings, splits, load, say) -> list[Cost]:
    wanted = list(dict.fromkeys([REFERENCE, *methods]))
    path, identity = out / "costs.json", {"methods": wanted, **{m: _identity(settings, m) for m in wanted}}
    if path.exists() and json.loads(path.read_text(encoding="utf-8"))["settings"] == identity:
        return [Cost(**cost) for cost in _read(path, identity)["result"]]
    say(f"{settings.rounds} steps of each of {len(wanted)} methods in turn, for their times")
    costs = costs_of(wanted, settings, splits, load)
    _write(path, json.dumps({"settings": identity, "result": [asdict(cost) for cost in costs]}, indent=1))
    return costs


def _first(reviews: Any, wanted: int, split: str) -> Any:
    if not 1 <= wanted <= len(reviews):
        raise ValueError(f"{split}: {wanted} reviews asked for, there are {len(reviews)}")
    return reviews.select(range(wanted))


def _identity(settings: Settings, method: str) -> dict[str, Any]:
    """What a result depends on; numbers as JSON gives them back."""
    return {**asdict(settings), **asdict(RECIPES[method])}


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


def _write(path: Path, text: str) -> None:
    replace_files({path: partial(_fill, text=text)})


def _fill(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
