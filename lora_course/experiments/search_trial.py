"""One trial of a search: a fresh, seeded model, trained with its choices and watched from evaluation to evaluation.

run_trial      choose, train, report; the history stays, whatever becomes of the trial
Judge          a callback of `fit`: tells Optuna of each evaluation, and stops a run that lags
train_with     the same training without Optuna, to try the winner again with other seeds
prepare_data   tokenized once for all trials          load_model   the plan's encoder
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from torch import nn

from lora_course.adapters.optimizers import make_optimizer
from lora_course.adapters.report import parameter_report
from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.experiments.recipes import Loader, first_reviews, load_without_dropout
from lora_course.experiments.search_space import Plan, inject_choices, suggest, training_config
from lora_course.training.batching import pad_collate
from lora_course.training.history import EvaluationRow, History, StepRow
from lora_course.training.loop import TrainingDiverged, fit
from lora_course.training.sentiment import evaluate_sentiment, tokenize_reviews


def run_trial(trial: optuna.Trial, plan: Plan, load: Loader, data: Mapping[str, Any], histories: Path | None) -> float:
    """Choose, train a fresh model, report. Returns the plan's metric at the last evaluation.

    Raises TrialPruned if it was stopped on the way, TrainingDiverged or ArithmeticError if the result is not a number.
    """
    choices = suggest(trial, plan.space)
    judge = Judge(trial, plan.metric)
    trial.set_user_attr("device", describe_device(choose_device()))
    name = f"trial {trial.number}"
    try:
        model, _, history = train_with(choices, plan, plan.seed, data, load, judge, name)
    except TrainingDiverged as error:
        _keep(histories, trial.number, error.history)
        raise
    _keep(histories, trial.number, history)
    trial.set_user_attr("trained_parameters", parameter_report(model).trainable)
    trial.set_user_attr("seconds", history.summary.seconds + history.summary.evaluation_seconds)
    trial.set_user_attr("metrics", history.evaluations[-1].metrics)
    value = history.evaluations[-1].metrics[plan.metric]
    if not math.isfinite(value):
        raise ArithmeticError(f"the {plan.metric} is {value}")
    if history.summary.stop_reason == "callback":
        raise optuna.TrialPruned
    return value


class Judge:
    """A callback of `fit` that tells Optuna of every evaluation, and stops a run that lags at the end of its next step.

    So does a metric that is not a number; Optuna is not told of it.
    """

    def __init__(self, trial: optuna.Trial, metric: str):
        self.trial, self.metric, self.lags = trial, metric, False

    def __call__(self, row: StepRow) -> str | None:
        return "stop" if self.lags else None

    def evaluated(self, row: EvaluationRow) -> None:
        value = row.metrics[self.metric]
        if math.isfinite(value):
            self.trial.report(value, row.step)
        self.lags = not math.isfinite(value) or self.trial.should_prune()


def train_with(
    choices: Mapping[str, Any],
    plan: Plan,
    seed: int,
    data: Mapping[str, Any],
    load: Loader,
    judge: Judge | None = None,
    name: str | None = None,
) -> tuple[nn.Module, Any, History]:
    """A fresh model trained with these choices: model, tokenizer, history. data: from `prepare_data`."""
    seed_everything(seed)
    model, tokenizer = load()
    inject_choices(model, choices, seed)
    optimizer = make_optimizer(
        model, choices["learning_rate"], "lora_fa" if choices["method"] == "lora_fa" else "adamw", weight_decay=0.01
    )
    collate = partial(pad_collate, pad_token_id=tokenizer.pad_token_id)

    history = fit(
        model,
        data["train"],
        collate,
        training_config(plan, choices, seed),
        evaluate=lambda model: evaluate_sentiment(model, tokenizer, data["validation"], collate=collate).metrics(),
        optimizer=optimizer,
        callbacks=[judge] if judge else [],
        monitor=plan.metric,
        progress=False,
        name=name,
        dataset=f"{plan.data}, {len(data['train'])} for training",
    )
    return model, tokenizer, history


def load_model(plan: Plan) -> tuple[Any, Any]:
    """The plan's encoder, as `load_without_dropout` gives it."""
    return load_without_dropout(plan.model)


def prepare_data(plan: Plan, load: Loader, splits: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The first reviews of train and validation, tokenized once for all trials. The test split is left alone."""
    if splits is None:
        from lora_course.assets import load_reviews

        splits = load_reviews(plan.data, max_words=plan.max_words)
    _, tokenizer = load()
    data = {}
    for split, wanted in (("train", plan.train), ("validation", plan.validation)):
        data[split] = tokenize_reviews(first_reviews(splits[split], wanted, split), tokenizer, plan.max_length)
    return data


def _keep(folder: Path | None, number: int, history: History) -> None:
    if folder is not None:
        history.save(folder / f"trial-{number:04d}.json")
