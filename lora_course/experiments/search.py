"""A search for hyperparameters with Optuna, on one machine or on many that share a study.

open_study   make a study with its plan, or join one        search      work on it until so many trials are done
run_trial    one trial: a fresh, seeded model; Optuna told of every evaluation; pruned where it lags
train_with   the same training without Optuna, to try the winner again
A trial ends in one of three ways: complete, pruned, or failed with its error, when it diverged or did not fit. All
three count. One whose process was killed does not: its choices are queued again, and somebody takes them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from torch import nn

from lora_course.adapters.optimizers import make_optimizer
from lora_course.adapters.report import parameter_report
from lora_course.device import choose_device, describe_device, seed_everything
from lora_course.experiments.search_results import TrialResult, as_result, trial_results
from lora_course.experiments.search_space import DEFAULT, Plan, inject_choices, inside, suggest, training_config
from lora_course.experiments.search_storage import (
    StudySampler,
    is_abandoned,
    place,
    queue_again,
    quiet_optuna,
    storage_at,
)
from lora_course.training.batching import pad_collate
from lora_course.training.bookkeeping import LOWER_IS_BETTER
from lora_course.training.history import History, StepRow
from lora_course.training.loop import TrainingDiverged, fit
from lora_course.training.sentiment import evaluate_sentiment, tokenize_reviews

Loader = Callable[[], tuple[Any, Any]]  # a fresh model with a new head, and its tokenizer


FAULTS = (ArithmeticError, RuntimeError, ValueError)  # diverged, out of memory, does not fit: a trial's own


class Enough(Exception):
    """Two processes took the last trial at once, and this is the second of them."""


def open_study(
    storage: str | Path | BaseStorage, plan: Plan | None = None, name: str = "search", heartbeat: int = 20
) -> optuna.Study:
    """Make the study with this plan, Plan() if None; or join the one that is there, whose plan must be the same.

    storage: see `storage_at`. A second machine joins with plan=None.
    Raises ValueError if the study is there with another plan, or was not made by this function.
    """
    backend = storage_at(storage, heartbeat)
    with quiet_optuna():
        direction = "minimize" if (plan or Plan()).metric in LOWER_IS_BETTER else "maximize"
        try:
            study = optuna.create_study(storage=backend, study_name=name, direction=direction)
        except optuna.exceptions.DuplicatedStudyError:
            return _join(backend, name, plan)
        plan = plan or Plan()
        if plan.default_first and inside(DEFAULT, plan.space):
            study.enqueue_trial(DEFAULT)
        study.set_user_attr("plan", plan.to_dict())  # last: whoever sees the plan finds the study complete
        return study


def _join(backend: BaseStorage, name: str, plan: Plan | None) -> optuna.Study:
    study = optuna.load_study(study_name=name, storage=backend)
    for _ in range(50):
        if "plan" in study.user_attrs:
            break
        time.sleep(0.1)  # its maker is at it
    else:
        raise ValueError(f"the study {name!r} has no plan: it was not made by this search. Choose another name")
    there = study.user_attrs["plan"]
    if plan is not None and plan.to_dict() != there:
        here = plan.to_dict()
        different = [key for key in here if there.get(key) != here[key]]
        changed = ", ".join(f"{key} {there.get(key)} there, {here[key]} here" for key in different)
        raise ValueError(f"the study {name!r} has another plan ({changed}): choose another name, or join it as it is")
    return study


def plan_of(study: optuna.Study) -> Plan:
    """What all trials of the study share."""
    return Plan.from_dict(study.user_attrs["plan"])


def search(
    study: optuna.Study,
    trials: int,
    *,
    load: Loader | None = None,
    splits: Mapping[str, Any] | None = None,
    pruner: BasePruner | None = None,
    histories: Path | None = None,
    say: Callable[[str], object] = print,
    poll: float = 2.0,
) -> list[TrialResult]:
    """Work on the study until `trials` of them are done, by this process and any others, and return them all.

    load, splits: the plan's model and reviews if None. pruner: the plan's if None.
    histories: a folder that gets the whole History of each trial run here. say: called with a line for each trial.
    poll: seconds between looks while other processes run the last trials; if one of them dies, this one takes over.
    Raises AssetError if model or data cannot be had, ValueError if there are fewer reviews than the plan asks for.
    """
    plan = plan_of(study)
    load = load or partial(load_model, plan)
    data = prepare_data(plan, load, splits)
    study.sampler = StudySampler(plan.sampler, plan.seed)
    study.pruner = pruner or make_pruner(plan.pruner)
    taken: list[int] = []
    work = partial(_objective, study, plan, trials, load, data, histories, taken)
    waiting_for: list[int] = []
    with quiet_optuna():
        while True:
            optuna.storages.fail_stale_trials(study)
            counted = [t for t in study.get_trials(deepcopy=False) if not is_abandoned(t)]
            finished = sum(t.state.is_finished() for t in counted)
            running = [t.number for t in counted if t.state == TrialState.RUNNING]
            if finished >= trials:
                return trial_results(study)
            if finished + len(running) >= trials:
                if running != waiting_for:
                    say(f"waiting for what runs elsewhere: trial {', '.join(map(str, running))}")
                waiting_for = running
                time.sleep(poll)
                continue
            try:
                study.optimize(work, n_trials=1, catch=(*FAULTS, Enough), callbacks=[partial(_tell, say, plan)])
            except ValueError:  # Optuna's, when it is told of a trial that is no longer ours
                if not taken:
                    raise
                say(f"trial {taken.pop()}: this process was silent for so long that another one has taken it")


def _objective(study, plan, wanted, load, data, histories, taken: list[int], trial: optuna.Trial) -> float:
    if place(study, trial) >= wanted:
        raise Enough
    try:
        return run_trial(trial, plan, load, data, histories)
    except optuna.TrialPruned:
        raise
    except optuna.exceptions.UpdateFinishedTrialError:
        taken.append(trial.number)
        raise
    except FAULTS as error:
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        raise
    except BaseException:  # Ctrl-C, a lost database: not the trial's fault
        queue_again(study, study.trials[trial.number])
        raise


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
        self.trial, self.metric, self.step, self.lags = trial, metric, 0, False

    def __call__(self, row: StepRow) -> str | None:
        self.step = row.step
        return "stop" if self.lags else None

    def see(self, metrics: Mapping[str, float]) -> None:
        value = metrics[self.metric]
        if math.isfinite(value):
            self.trial.report(value, self.step)
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

    def evaluate(model: nn.Module) -> dict[str, float]:
        metrics = evaluate_sentiment(model, tokenizer, data["validation"], collate=collate).metrics()
        if judge:
            judge.see(metrics)
        return metrics

    history = fit(
        model,
        data["train"],
        collate,
        training_config(plan, choices, seed),
        evaluate=evaluate,
        optimizer=optimizer,
        callbacks=[judge] if judge else [],
        monitor=plan.metric,
        progress=False,
        name=name,
        dataset=f"{plan.data}, {len(data['train'])} for training",
    )
    return model, tokenizer, history


def load_model(plan: Plan) -> tuple[Any, Any]:
    """The plan's encoder without dropout, on this machine's device."""
    from lora_course.assets import load_encoder

    model, tokenizer = load_encoder(plan.model, base_dropout=0.0)
    return model.to(choose_device()), tokenizer


def prepare_data(plan: Plan, load: Loader, splits: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The first reviews of train and validation, tokenized once for all trials. The test split is left alone."""
    if splits is None:
        from lora_course.assets import load_reviews

        splits = load_reviews(plan.data)
    _, tokenizer = load()
    data = {}
    for split, wanted in (("train", plan.train), ("validation", plan.validation)):
        if wanted > len(splits[split]):
            raise ValueError(f"{split}: {wanted} reviews asked for, there are {len(splits[split])}")
        data[split] = tokenize_reviews(splits[split].select(range(wanted)), tokenizer, plan.max_length)
    return data


def make_pruner(name: str) -> BasePruner:
    """median: stop what is worse than half of the complete trials were at that step, once there are five."""
    return {"median": MedianPruner, "halving": SuccessiveHalvingPruner, "none": NopPruner}[name]()


def _keep(folder: Path | None, number: int, history: History) -> None:
    if folder is not None:
        history.save(folder / f"trial-{number:04d}.json")


def _tell(say: Callable[[str], object], plan: Plan, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    if not is_abandoned(trial):
        say(as_result(trial).line(plan.metric))
