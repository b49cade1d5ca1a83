"""What came out of a search: its trials as plain rows, the best of them, and which choices mattered.

trial_results, best    every trial; the best of the complete ones, never one that failed or was pruned
importances            how much each choice has to do with reaching the best quarter, beside what luck would show
report_files           the whole as JSON, CSV and Markdown
"""

from __future__ import annotations

import csv
import io
import json
import math
import random
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from lora_course.experiments.search_space import Plan
from lora_course.experiments.search_storage import quiet_optuna
from lora_course.tables import markdown_table, without_nan
from lora_course.training.bookkeeping import LOWER_IS_BETTER

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
BEST_QUARTER = 0.25


@dataclass(frozen=True)
class TrialResult:
    """One trial.

    state: complete, pruned, failed (see error), abandoned (its process was killed; see retry_of of a later one),
        running or waiting. value: the metric at its last evaluation, None if there is none.
    """

    number: int
    state: str
    value: float | None
    choices: dict[str, Any]
    metrics: dict[str, float]
    seconds: float | None
    trained_parameters: int | None
    device: str | None
    error: str | None
    retry_of: int | None

    def line(self, metric: str) -> str:
        """One line for people."""
        chosen = ", ".join(f"{name} {_short(value)}" for name, value in self.choices.items())
        result = f"{metric} {self.value:.3f}" if self.value is not None else ""
        seconds = "" if self.seconds is None else f"{self.seconds:.0f} s"
        why = f" ({brief(self.error)})" if self.error else ""
        return f"trial {self.number:2d} {self.state:8s} {result:14s} {seconds:>5s}  {chosen}{why}"


def brief(error: str | None) -> str:
    """The first sentence."""
    return "" if error is None else error.split(". ")[0].splitlines()[0]


def as_result(trial: FrozenTrial) -> TrialResult:
    noted = trial.user_attrs
    state = STATES[trial.state]
    value = trial.value if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) else None
    return TrialResult(
        trial.number,
        "abandoned" if state == "failed" and "error" not in noted else state,
        value,
        dict(trial.params),
        noted.get("metrics", {}),
        noted.get("seconds"),
        noted.get("trained_parameters"),
        noted.get("device"),
        noted.get("error"),
        noted.get("retry_of"),
    )


def trial_results(study: optuna.Study) -> list[TrialResult]:
    """All trials, in the order of their numbers."""
    return [as_result(trial) for trial in study.get_trials(deepcopy=False)]


def best(results: Sequence[TrialResult], metric: str) -> TrialResult:
    """The complete trial with the best finite value, the first of equals. Raises ValueError if there is none."""
    sign = 1 if metric in LOWER_IS_BETTER else -1
    complete = [r for r in results if r.state == "complete" and r.value is not None and math.isfinite(r.value)]
    if not complete:
        states = ", ".join(sorted({r.state for r in results})) or "none"
        raise ValueError(f"no trial is complete with a finite {metric}; the states are: {states}")
    return min(complete, key=lambda r: (sign * r.value, r.number))


def importances(
    results: Sequence[TrialResult], plan: Plan, shuffles: int = 100, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Choice -> (its share of importance, what luck gives: the 95th percentile over shuffled results).

    PED-ANOVA (Watanabe, Bansal and Hutter 2023): how differently is a choice distributed in the best quarter of the
    trials? It asks only which trials are in the best quarter; pruned and failed ones are not, and say so. Shuffling
    deals the same results to other trials: what is importance then comes by chance.
    Raises ValueError with fewer than 8 trials, or if no choice varies.
    """
    sign = 1 if plan.metric in LOWER_IS_BETTER else -1
    done = [r for r in results if r.state in ("complete", "pruned", "failed") and r.choices]
    if len(done) < 8:
        raise ValueError(f"importances need at least 8 trials, there are {len(done)}")
    good = [sign * r.value for r in done if r.state == "complete" and math.isfinite(r.value)]
    worst = max(good, default=0.0) + 1.0
    values = [sign * r.value if r.state == "complete" and math.isfinite(r.value) else worst for r in done]
    chance = random.Random(seed)
    with quiet_optuna():
        found = _importances(done, values, plan)
        if not found:
            raise ValueError("no choice varies in this search")
        lucky: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(shuffles):
            for name, share in _importances(done, chance.sample(values, len(values)), plan).items():
                lucky[name].append(share)
    return {name: (share, statistics.quantiles(lucky[name], n=20)[-1]) for name, share in found.items()}


def _importances(results: Sequence[TrialResult], values: Sequence[float], plan: Plan) -> dict[str, float]:
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    distributions = _distributions(plan)
    for result, value in zip(results, values, strict=True):
        mine = {name: distributions[name] for name in result.choices}
        study.add_trial(optuna.create_trial(params=result.choices, distributions=mine, value=value))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_QUARTER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about ties between failed trials
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: share for name, share in shares.items() if not distributions[name].single()}


def _distributions(plan: Plan) -> dict[str, optuna.distributions.BaseDistribution]:
    space = {name: list(value) for name, value in asdict(plan.space).items()}
    low, high = space.pop("learning_rate")
    categorical = {name: optuna.distributions.CategoricalDistribution(value) for name, value in space.items()}
    return {"learning_rate": optuna.distributions.FloatDistribution(low, high, log=True), **categorical}


def report_files(results: Sequence[TrialResult], plan: Plan) -> dict[str, str]:
    """File name -> text: results.json with everything (null for NaN), trials.csv, report.md."""
    names = [*asdict(plan.space)]
    rows = [
        [r.number, r.state, r.value, *(r.choices.get(name) for name in names), r.trained_parameters, r.seconds, r.error]
        for r in results
    ]
    header = ["trial", "state", plan.metric, *names, "trained_parameters", "seconds", "error"]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return {
        "results.json": json.dumps(as_json(results, plan), indent=1) + "\n",
        "trials.csv": text.getvalue(),
        "report.md": _markdown(results, plan, header, rows),
    }


def as_json(results: Sequence[TrialResult], plan: Plan) -> dict[str, Any]:
    """Plan, trials, the number of the best (None if there is none), and importances if there are enough trials."""
    everything: dict[str, Any] = {"plan": plan.to_dict(), "trials": [asdict(r) for r in results]}
    try:
        everything["best"] = best(results, plan.metric).number
    except ValueError:
        everything["best"] = None
    try:
        found = importances(results, plan)
        everything["importances"] = {k: {"share": share, "by_luck": luck} for k, (share, luck) in found.items()}
    except ValueError:
        everything["importances"] = None
    return without_nan(everything)


def _markdown(results, plan: Plan, header, rows) -> str:
    ordered = sorted(rows, key=lambda row: (row[1] != "complete", _sortable(row[2], plan.metric), row[0]))
    table = [header, *([*(_short(value) for value in row[:-1]), brief(row[-1])] for row in ordered)]
    seconds = sum(r.seconds or 0.0 for r in results)
    devices = ", ".join(sorted({r.device for r in results if r.device})) or "no device"
    short = f" of up to {plan.max_words} words" if plan.max_words else ""
    return f"""# Search

{plan.model} on {plan.data}: {plan.train} reviews{short} for training, {plan.epochs} time(s), {plan.batch_size} a batch;
judged by {plan.metric} on {plan.validation} others. Sampler {plan.sampler}, pruner {plan.pruner}, seed {plan.seed}.

{markdown_table(table)}

The first row is the best of many on the same {plan.validation} reviews, so its {plan.metric} flatters it. Train it
again and judge it on the test split before you believe it. {seconds:.0f} s of training and evaluation, on {devices}.
"""


def _sortable(value: float | None, metric: str) -> float:
    if value is None or math.isnan(value):
        return math.inf
    return value if metric in LOWER_IS_BETTER else -value


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
