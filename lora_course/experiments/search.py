"""A search for hyperparameters with Optuna, on one machine or on many that share a study.

open_study     make a study with its plan, or join one
search         work on it until so many trials are done
write_report   results as JSON, CSV and Markdown, and pictures
A trial ends in one of three ways: complete, pruned, or failed with its error, when it diverged or did not fit. All
three count. One whose process was killed does not: its choices are queued again, and somebody takes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from lora_course.atomic import replace_files
from lora_course.experiments.recipes import Loader
from lora_course.experiments.search_plots import contour_plot, importance_plot, progress_plot
from lora_course.experiments.search_results import TrialResult, as_result, importances, report_files, trial_results
from lora_course.experiments.search_space import DEFAULT, Plan, inside
from lora_course.experiments.search_storage import (
    StudySampler,
    is_abandoned,
    listen_to,
    place,
    queue_again,
    quiet_optuna,
    storage_at,
)
from lora_course.experiments.search_trial import load_model, prepare_data, run_trial
from lora_course.training.bookkeeping import LOWER_IS_BETTER

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
    if plan is not None and plan != plan_of(study):
        here, there = plan.to_dict(), plan_of(study).to_dict()
        different = [key for key in here if there[key] != here[key]]
        changed = ", ".join(f"{key} {there[key]} there, {here[key]} here" for key in different)
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
                    listen_to(study, {*running} - {*waiting_for})
                    numbers = ", ".join(map(str, running))
                    say(f"waiting for what runs elsewhere: trial {numbers} (if nothing does: --requeue-running)")
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


def make_pruner(name: str) -> BasePruner:
    """median: stop what is worse than half of the complete trials were at that step, once there are five."""
    return {"median": MedianPruner, "halving": SuccessiveHalvingPruner, "none": NopPruner}[name]()


def _tell(say: Callable[[str], object], plan: Plan, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    if not is_abandoned(trial):
        say(as_result(trial).line(plan.metric))


def write_report(results: list[TrialResult], plan: Plan, folder: Path) -> None:
    """results.json, trials.csv, report.md, and the pictures for which there are enough trials."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = report_files(results, plan)
    writers: dict[Path, Callable] = {
        folder / name: lambda new, text=text: new.write_text(text, encoding="utf-8") for name, text in texts.items()
    }
    for name, draw in {
        "progress.png": lambda: progress_plot(results, plan.metric),
        "contour.png": lambda: contour_plot(results, "learning_rate", "rank", plan.metric),
        "importance.png": lambda: importance_plot(importances(results, plan), len(results)),
    }.items():
        with suppress(ValueError):  # too few trials
            figure = draw()
            writers[folder / name] = lambda new, figure=figure: figure.savefig(new, format="png", dpi=120)
    replace_files(writers)
