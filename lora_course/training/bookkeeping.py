"""What surrounds a training run and is not training: checking what it was given, describing it, adding it up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_course.adapters.base import trained_ids
from lora_course.adapters.inject import adapter_config, adapters
from lora_course.device import describe_device, process_count
from lora_course.training.config import TrainingConfig
from lora_course.training.history import History, Run, Summary, library_versions
from lora_course.training.metrics import parameter_counts, peak_memory

LOWER_IS_BETTER = ("loss", "perplexity")


def check_run(model, lengths, optimizer, evaluate, config) -> None:
    if (processes := process_count()) > 1:
        raise ValueError(
            f"fit() trains in one process, and {processes} were started: each would train a copy of its own and write "
            "the same files. Give the injected model to transformers.Trainer, as README says under More than one GPU"
        )
    if not lengths:
        raise ValueError("train_data is empty")
    if any(adapter.merged for adapter in adapters(model).values()):
        raise ValueError("the adapters are merged into the base and would get no gradient: call unmerge(model) first")
    ours = {id(p) for p in model.parameters() if p.requires_grad}
    missing = ours - trained_ids(optimizer)
    if missing:
        raise ValueError(
            f"the optimizer lacks {len(missing)} of the model's {len(ours)} trainable tensors: make it after inject()"
        )
    if config.patience is not None and evaluate is None:
        raise ValueError("patience stops by the evaluations, and there is none: pass fit(evaluate=…)")


def learning_rate_factors(
    schedule: Callable[[int, int, int, str], float], total_steps: int, config: TrainingConfig
) -> list[float]:
    warmup = round(config.warmup_fraction * total_steps)
    factors = [float(schedule(step, total_steps, warmup, config.schedule)) for step in range(total_steps + 1)]
    for step, factor in enumerate(factors):
        if not (math.isfinite(factor) and factor >= 0):
            raise ValueError(f"the schedule gives {factor} at step {step}; a factor on the learning rate is 0 or more")
    return factors


def describe_run(model: nn.Module, config: TrainingConfig, device: torch.device, name: str | None, dataset: str) -> Run:
    trainable, total = parameter_counts(model)
    adapter = asdict(adapter_config(model)) if adapters(model) else None
    method = adapter["method"] if adapter else "full fine-tuning" if trainable == total else "part of the model"
    source = getattr(getattr(model, "config", None), "_name_or_path", "")
    label = Path(source).name if source and Path(source).exists() else source  # a local path is nobody else's business
    described = type(model).__name__ + (f" {label}" if label else "")
    settings = json.loads(json.dumps({"training": asdict(config), "adapter": adapter}))  # tuples become lists
    return Run(
        name or method,
        method,
        described,
        dataset,
        describe_device(device),
        config.seed,
        settings,
        trainable,
        total,
        library_versions(),
    )


def size_of(batches: Sequence[Mapping[str, Tensor]]) -> tuple[int, int]:
    samples = sum(len(batch["labels"]) for batch in batches)
    return samples, sum(int(batch["attention_mask"].sum()) for batch in batches if "attention_mask" in batch)


def evaluation_due(step: int, steps_per_epoch: int, times: int) -> bool:
    """Whether one of `times` evenly spaced moments of the epoch falls on this step; the last is the epoch's end."""
    place = (step - 1) % steps_per_epoch
    return (place + 1) * times // steps_per_epoch > place * times // steps_per_epoch


def as_numbers(metrics: Mapping[str, float], monitor: str, patience: int | None) -> dict[str, float]:
    numbers = {name: float(value) for name, value in metrics.items()}
    if patience is not None and monitor not in numbers:
        raise ValueError(f"monitor={monitor!r} is not among the metrics of evaluate: {', '.join(numbers)}")
    return numbers


def best_evaluation(history: History, monitor: str) -> int:
    """Index of the best evaluation, the first of equals; one that is NaN is never best."""
    sign = -1 if monitor in LOWER_IS_BETTER else 1
    values = [sign * row.metrics[monitor] for row in history.evaluations]
    return max(range(len(values)), key=lambda i: (-math.inf if math.isnan(values[i]) else values[i], -i))


def evaluations_since_best(history: History, monitor: str) -> int:
    return len(history.evaluations) - 1 - best_evaluation(history, monitor)


def diverged(step: int, loss: float, norm: float, lr: float, path: Path | None) -> str:
    kept = f"; the checkpoint {path} holds an earlier step" if path and path.exists() else ""
    return (
        f"step {step}: the loss is {loss} and the gradient norm {norm}, at learning rate {lr:g}. The step was not "
        f"taken, the model has the parameters of the step before{kept}. Try a lower learning rate or a longer warm-up"
    )


def summarise(history: History, stop: str, monitor: str | None, device: torch.device) -> Summary:
    """monitor: what the parameters that were put back are the best by, None if none were."""
    last, samples = history.steps[-1], sum(row.samples for row in history.steps)
    seconds, peak = last.seconds, peak_memory(device)
    best_step = history.evaluations[best_evaluation(history, monitor)].step if monitor else None
    evaluation_seconds = sum(row.evaluation_seconds for row in history.evaluations)
    return Summary(
        seconds,
        evaluation_seconds,
        last.step,
        samples,
        samples / seconds,
        last.step / seconds,
        peak.bytes,
        peak.label,
        stop,
        best_step,
    )
