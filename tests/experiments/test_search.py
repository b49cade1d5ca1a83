"""The search on a tiny random BERT: what counts, what is never best, kills, several processes, pictures, commands."""

import csv
import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from sqlalchemy.exc import OperationalError

from lora_course import assets, cli
from lora_course.experiments import search as module
from lora_course.experiments import search_storage, search_trial
from lora_course.experiments.search import open_study, plan_of, search
from lora_course.experiments.search_plots import contour_plot, importance_plot, progress_plot
from lora_course.experiments.search_results import TrialResult, best, importances, report_files, trial_results
from lora_course.experiments.search_space import DEFAULT, Plan, Space, inject_choices, target_names
from lora_course.experiments.search_storage import MOST_TRIES, queue_again, requeue_running, storage_at
from lora_course.experiments.search_trial import prepare_data, train_with
from lora_course.teaching.checks.lesson_12 import should_stop
from lora_course.training.history import History
from tests.experiments.test_benchmark import load, one_device, reviews  # noqa: F401  (a fixture)

PLAN = Plan(train=40, validation=30, batch_size=8, evaluations=5, space=Space(rank=(2, 4, 8)))
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed")  # where a test asks by hand


def go(study, trials, load=load, **options):
    said = []
    return search(study, trials, load=load, splits=reviews(), poll=0.05, say=said.append, **options), said


def counted(results):
    return [(r.choices, r.value, r.state) for r in results if r.state in ("complete", "pruned", "failed")]


def made(number, state="complete", value=0.5, error=None, **choices):
    known = {**DEFAULT, **choices}
    return TrialResult(number, state, value, known, {}, 1.0, 100, "CPU", error, None)


@pytest.mark.parametrize("file", ["search.db", "search.journal"])
def test_a_search_goes_on_where_it_was(tmp_path, file):
    study = open_study(tmp_path / file, PLAN)
    results, said = go(study, 3, histories=tmp_path / "histories")
    assert [r.number for r in results] == [0, 1, 2] and len(said) == 3
    assert results[0].choices == DEFAULT and results[1].choices != results[2].choices
    assert all(r.state == "complete" and r.value == r.metrics["loss"] and r.trained_parameters for r in results)
    history = History.load(tmp_path / "histories" / "trial-0002.json")
    assert len(history.steps) == 5 and history.evaluations[-1].metrics["loss"] == results[2].value
    frozen = study.trials[2]
    assert frozen.intermediate_values == {e.step: e.metrics["loss"] for e in history.evaluations}
    again, said = go(open_study(tmp_path / file, PLAN), 3)
    assert (again, said) == (results, [])
    more, said = go(open_study(tmp_path / file), 5)  # without a plan: the study's own
    assert more[:3] == results and len(more) == 5 and len(said) == 2


def test_each_trial_has_a_fresh_seeded_model(tmp_path):
    study = open_study(tmp_path / "s.db", replace(PLAN, pruner="none"))
    for _ in range(2):
        study.enqueue_trial(DEFAULT)
    results, _ = go(study, 3)
    assert results[0].value == results[1].value == results[2].value  # none goes on from where another ended
    data = prepare_data(PLAN, load, reviews())
    assert train_with(DEFAULT, PLAN, 0, data, load)[2].evaluations[-1].metrics["loss"] == results[0].value
    assert train_with(DEFAULT, PLAN, 1, data, load)[2].evaluations[-1].metrics["loss"] != results[0].value


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_trials_that_diverge_are_recorded_with_their_reason_and_never_best(tmp_path, metric):
    plan = replace(PLAN, metric=metric, sampler="random", default_first=False,
                   space=Space(learning_rate=(1e-3, 1e30)))  # fmt: skip
    study = open_study(tmp_path / "s.db", plan)
    results, said = go(study, 8, histories=tmp_path)
    failed = [r for r in results if r.state == "failed"]
    assert failed and len(results) == 8 and all(r.value is None for r in failed)
    assert all("TrainingDiverged: step" in r.error or "ArithmeticError: the loss is" in r.error for r in failed)
    assert sum("failed" in line for line in said) == len(failed)
    found = best(results, metric)
    complete = [r.value for r in results if r.state == "complete"]
    assert found.value == (min(complete) if metric == "loss" else max(complete))
    assert study.best_trial.value == found.value  # Optuna is of the same opinion, and of the same direction
    assert len(list(tmp_path.glob("trial-*.json"))) == 8  # a history each, whatever became of it


def test_a_metric_that_is_not_a_number_fails_the_trial(tmp_path, monkeypatch):
    real = search_trial.evaluate_sentiment

    def broken(*arguments, **options):
        return replace(real(*arguments, **options), loss=math.nan)

    monkeypatch.setattr(search_trial, "evaluate_sentiment", broken)
    (result,), _ = go(open_study(tmp_path / "s.db", PLAN), 1, histories=tmp_path)
    assert (result.state, result.value, result.error) == ("failed", None, "ArithmeticError: the loss is nan")
    assert len(History.load(tmp_path / "trial-0000.json").steps) == 2  # no use in going on
    with pytest.raises(ValueError, match="no trial is complete with a finite loss; the states are: failed"):
        best([result], "loss")


def test_the_best_by_hand():
    results = [made(0, value=math.nan), made(1, "failed", None, "boom"), made(2, "pruned", 0.1), made(3, value=0.4)]
    results += [made(4, value=0.3), made(5, value=0.3), made(6, "running", None), made(7, "abandoned", None)]
    assert best(results, "loss").number == 4 and best(results, "accuracy").number == 3


class Second(optuna.pruners.BasePruner):
    """Prunes every trial but the first at its second evaluation, or later."""

    def prune(self, study, trial):
        return trial.number > 0 and len(trial.intermediate_values) >= 2


def test_pruning_stops_a_run_at_its_next_step(tmp_path):
    study = open_study(tmp_path / "s.db", PLAN)
    results, _ = go(study, 2, pruner=Second(), histories=tmp_path)
    assert [r.state for r in results] == ["complete", "pruned"]
    history = History.load(tmp_path / "trial-0001.json")
    assert len(history.evaluations) == 3 and len(history.steps) == 3  # stopped by the step after the second
    assert history.summary.stop_reason == "callback" and results[1].value == history.evaluations[-1].metrics["loss"]
    late = replace(PLAN, evaluations=2)  # nothing is saved by pruning at the end
    results, _ = go(open_study(tmp_path / "late.db", late), 2, pruner=Second())
    assert [r.state for r in results] == ["complete", "complete"]


def test_the_median_pruner_prunes_what_is_worse_than_half(tmp_path, monkeypatch):
    one = Space((1e-3, 1e-3), (2,), (2.0,), ("all-linear",), ("lora",), ("linear",))
    study = open_study(tmp_path / "s.db", replace(PLAN, space=one, default_first=False))
    go(study, 5)
    real = search_trial.evaluate_sentiment

    def worse(*arguments, **options):
        result = real(*arguments, **options)
        return replace(result, loss=result.loss + 1)

    monkeypatch.setattr(search_trial, "evaluate_sentiment", worse)
    results, _ = go(study, 6)
    assert [r.state for r in results] == ["complete"] * 5 + ["pruned"]


def test_the_rule_of_lesson_12_is_optunas_median_pruner():
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    chance, decided = random.Random(0), []
    for _ in range(60):
        trial = study.ask()
        for step in (10, 20, 30):
            trial.report(chance.choice([0.1, 0.2, 0.3, 0.4, 0.5]), step)  # so that there are ties
            frozen = study.trials[trial.number]
            others = [t.intermediate_values for t in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))]
            mine = should_stop(frozen.intermediate_values, others, step)
            assert mine == optuna.pruners.MedianPruner().prune(study, frozen)
            decided.append(mine)
        study.tell(trial, 0.0)
    assert 20 < sum(decided) < 160


def interrupting(at, error):
    """A loader whose call number `at` raises instead."""
    calls = []

    def loader():
        calls.append(0)
        if len(calls) == at:
            raise error
        return load()

    return loader


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("the disk is gone")])
def test_an_interrupted_search_ends_as_one_that_never_was(tmp_path, error):
    whole, _ = go(open_study(tmp_path / "whole.db", PLAN), 6)
    study = open_study(tmp_path / "cut.db", PLAN)
    with pytest.raises(type(error)):
        go(study, 6, load=interrupting(5, error))
    cut = trial_results(study)
    assert [r.state for r in cut] == ["complete"] * 3 + ["abandoned", "waiting"]
    results, _ = go(open_study(tmp_path / "cut.db", PLAN), 6)
    assert counted(results) == counted(whole) and len(counted(whole)) == 6
    assert results[3].choices == whole[3].choices and results[4].retry_of == 3


def test_a_trial_whose_process_died_before_its_first_heartbeat_is_tried_again(tmp_path):
    study = open_study(tmp_path / "s.db", PLAN, heartbeat=1)
    open_study(tmp_path / "s.db").ask()
    results, said = go(study, 1)
    assert [(r.state, r.retry_of) for r in results] == [("abandoned", None), ("complete", 0)]
    assert said[0].startswith("waiting for what runs elsewhere: trial 0")


def test_a_trial_is_not_tried_for_ever(tmp_path):
    study = open_study(tmp_path / "s.db", PLAN)
    for n in range(MOST_TRIES):
        trial = study.ask()
        assert trial.user_attrs.get("tries", 1) == n + 1 and trial.suggest_float("learning_rate", 1e-4, 1e-2) == 1e-3
        assert requeue_running(study) == [trial.number]
    assert [r.state for r in trial_results(study)] == ["abandoned"] * MOST_TRIES  # nothing waits


def start(storage, trials, *stuck):
    command = [sys.executable, "-m", "tests.experiments.search_worker", str(storage), str(trials), *stuck]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)


@pytest.mark.skipif(os.name != "posix", reason="kills a process as only POSIX does")
@pytest.mark.parametrize("file", ["shared.db", "shared.journal"])
def test_two_processes_share_a_study_and_one_is_killed(tmp_path, file):
    storage, trials = tmp_path / file, 9
    stuck, other = start(storage, trials, "stuck"), start(storage, trials)  # both find nothing there, and one makes it
    guard = threading.Timer(500, lambda: (stuck.kill(), other.kill()))
    guard.start()
    try:
        lines = []
        for line in stuck.stdout:
            lines.append(line)
            if line == "stuck\n":
                break
        assert lines[-1:] == ["stuck\n"], (lines, stuck.stderr.read())
        study = open_study(storage)
        stuck.send_signal(signal.SIGKILL)
        stuck.wait()
        if file.endswith("journal"):  # no heartbeats: somebody has to say it
            while len(running := [t for t in study.trials if t.state == optuna.trial.TrialState.RUNNING]) != 1 or (
                sum(t.state.is_finished() for t in study.trials) < trials - 1
            ):
                assert other.poll() is None, other.stderr.read()
            assert requeue_running(study) == [running[0].number]
        said, errors = other.communicate()
    finally:
        guard.cancel()
        stuck.kill(), other.kill()
    assert other.returncode == 0, errors
    results = trial_results(study)
    done = counted(results)
    assert len(done) == trials and not [r for r in results if r.state in ("running", "waiting")]
    lost = [r for r in results if r.state == "abandoned" and r.choices]
    assert len(lost) == 1
    (retried,) = [r for r in results if r.retry_of == lost[0].number]
    assert retried.choices == lost[0].choices and retried.state in ("complete", "pruned")
    choices = [tuple(c.items()) for c, _, _ in done]
    assert len(set(choices)) == trials  # two processes never draw the same
    assert sum(line.startswith("trial ") for line in [*lines, *said.splitlines()]) == trials  # each was run once


def test_one_more_process_than_trials_is_one_too_many(tmp_path):
    """Another process takes the last trial between our look and our asking."""
    study = open_study(tmp_path / "s.db", PLAN)
    go(study, 2)
    other, real = open_study(tmp_path / "s.db"), study.optimize

    def late(*arguments, **options):
        if len(study.trials) == 2:
            other.tell(other.ask(), 0.5)
        return real(*arguments, **options)

    study.optimize = late
    results, said = go(study, 3)
    assert [r.state for r in results] == ["complete"] * 3 + ["abandoned"] and said == []


def test_a_process_that_was_taken_for_dead_goes_on(tmp_path):
    study = open_study(tmp_path / "s.db", PLAN)
    calls = []

    def slept():
        calls.append(0)
        if len(calls) == 3:  # in the second trial
            requeue_running(open_study(tmp_path / "s.db"))
        return load()

    results, said = go(study, 4, load=slept)
    assert [r.state for r in results] == ["complete", "abandoned", "complete", "complete", "complete"]
    assert "trial 1: this process was silent" in "\n".join(said)


def test_every_machine_takes_the_reviews_of_the_plan(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(assets, "load_reviews", lambda name, max_words: asked.append((name, max_words)) or reviews())
    search(open_study(tmp_path / "s.db", replace(PLAN, max_words=7)), 1, load=load, say=asked.count)
    search(open_study(tmp_path / "s.db"), 2, load=load, say=asked.count)
    assert asked == [("rotten_tomatoes", 7)] * 2


def test_a_study_older_than_a_setting_goes_on(tmp_path):
    study = open_study(tmp_path / "s.db", PLAN)
    study.set_user_attr("plan", {name: value for name, value in PLAN.to_dict().items() if name != "max_words"})
    assert plan_of(open_study(tmp_path / "s.db", PLAN)) == PLAN
    with pytest.raises(ValueError, match=r"has another plan \(max_words None there, 7 here\)"):
        open_study(tmp_path / "s.db", replace(PLAN, max_words=7))


def test_another_plan_is_refused(tmp_path):
    open_study(tmp_path / "s.db", PLAN)
    with pytest.raises(ValueError, match=r"has another plan \(train 40 there, 41 here\)"):
        open_study(tmp_path / "s.db", replace(PLAN, train=41))
    assert plan_of(open_study(tmp_path / "s.db", replace(PLAN, train=41), name="other")).train == 41
    optuna.create_study(storage=f"sqlite:///{tmp_path / 's.db'}", study_name="foreign")
    with pytest.raises(ValueError, match="'foreign' has no plan"):
        open_study(tmp_path / "s.db", name="foreign")
    with pytest.raises(ValueError, match="train: 61 reviews asked for, there are 60"):
        go(open_study(tmp_path / "big.db", replace(PLAN, train=61)), 1)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense://me:secret@host/db", "cannot be opened: Can't load plugin"),
        ("sqlite:////no/such/folder/search.db", "cannot be opened: .*unable to open database file"),
        ("mssql+nodriver://me:secret@host/db", "cannot be opened"),
    ],
)
def test_a_database_that_is_not_there_is_told_without_its_password(url, said):
    with pytest.raises(ValueError, match=said) as told:
        storage_at(url)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("file", ["search.db", "search.journal"])
def test_no_two_take_the_same_waiting_trial(tmp_path, file):
    """Each thread has a connection of its own, as a process has."""
    study, taken = open_study(tmp_path / file, PLAN), []
    for _ in range(39):
        study.enqueue_trial(DEFAULT)

    def take(mine, together):
        for _ in range(10):
            together.wait()
            taken.append(mine.ask().number)

    together = threading.Barrier(4)
    threads = [threading.Thread(target=take, args=(open_study(tmp_path / file), together)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(40))


def test_two_that_make_the_tables_at_once(tmp_path, monkeypatch):
    real, tries = search_storage.RDBStorage, []

    def racing(*arguments, **options):
        tries.append(0)
        if len(tries) < 3:
            raise OperationalError("CREATE TABLE studies", {}, Exception("table studies already exists"))
        return real(*arguments, **options)

    monkeypatch.setattr(search_storage, "RDBStorage", racing)
    assert open_study(tmp_path / "s.db", PLAN).trials and len(tries) == 3


def test_a_missing_driver_is_named(monkeypatch):
    def missing(*_, **__):
        raise ImportError("no module")

    monkeypatch.setattr(search_storage, "RDBStorage", missing)
    with pytest.raises(ValueError, match="the driver for postgresql is not installed; .* psycopg"):
        storage_at("postgresql://me:secret@host/db")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(learning_rate=(1e-2, 1e-4)), "lowest, highest"),
        (dict(learning_rate=(0.0, 1e-4)), "above 0"),
        (dict(rank=(0,)), "1 or more"),
        (dict(rank=()), "rank must be a list"),
        (dict(targets="mlp"), "targets must be a list"),
        (dict(targets=("heads",)), "targets cannot be heads; there are query"),
        (dict(method=("lora", "adalora")), "method cannot be adalora"),
        (dict(schedule=("step",)), "schedule cannot be step"),
    ],
)
def test_a_senseless_space_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Space(**wrong)


@pytest.mark.parametrize("wrong", [dict(metric="bleu"), dict(sampler="grid"), dict(pruner="all"), dict(train=0),
                                   dict(max_words=0), dict(epochs=0), dict(evaluations=0)])  # fmt: skip
def test_a_senseless_plan_is_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong)))):
        Plan(**wrong)
    assert Plan.from_dict(json.loads(json.dumps(PLAN.to_dict()))) == PLAN


def test_targets_are_told_apart():
    model, _ = load()
    names = {targets: target_names(model, targets) for targets in ("query+value", "attention", "mlp")}
    assert [len(found) for found in names.values()] == [4, 8, 4]  # two layers
    assert not set(names["attention"]) & set(names["mlp"])
    inject_choices(model, {**DEFAULT, "targets": "mlp"}, 0)
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == 4


def spread(n=40):
    """Trials whose result is decided by the learning rate; ranks take turns."""
    rates = [1e-4 * 100 ** (i / (n - 1)) for i in range(n)]
    order = [(7 * i) % n for i in range(n)]
    return [made(i, value=abs(math.log10(rates[k]) + 3), learning_rate=rates[k], rank=(2, 8)[i % 2])
            for i, k in enumerate(order)]  # fmt: skip


def test_importances_and_what_luck_gives():
    plan = replace(PLAN, space=replace(PLAN.space, rank=(2, 8), method=("lora",)))
    results = spread()
    shares = importances(results, plan)
    assert math.isclose(sum(share for share, _ in shares.values()), 1) and "method" not in shares
    assert shares["learning_rate"][0] > 0.5 > shares["rank"][0] and shares["rank"][0] < shares["rank"][1]
    pruned = [r if r.value < 0.6 else replace(r, state="pruned") for r in results]
    failed = [r if r.value < 0.6 else replace(r, state="failed", value=None) for r in results]
    assert importances(pruned, plan) == importances(failed, plan) == shares  # they are not in the best quarter
    with pytest.raises(ValueError, match="at least 8 trials, there are 7"):
        importances(results[:7], plan)


def test_pictures():
    results = [*spread(), made(40, "pruned", 0.9, rank=8), made(41, "failed", None, "boom")]
    figure = contour_plot(results, "learning_rate", "rank", "loss")
    axes = figure.axes[0]
    assert axes.get_xlabel() == "learning rate" and axes.get_ylabel() == "rank"
    assert "nats" in figure.axes[1].get_ylabel()
    assert [text.get_text() for text in axes.get_yticklabels()] == ["2", "8"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1e-4", "3e-4", "1e-3", "3e-3", "1e-2"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["complete", "pruned", "failed"]
    figure = progress_plot(results, "loss")
    line = figure.axes[0].lines[0].get_ydata()
    assert line[-1] == min(r.value for r in spread()) and all(a >= b for a, b in zip(line, line[1:], strict=False))
    figure = importance_plot({"rank": (0.25, 0.4), "learning_rate": (0.75, 0.5)}, 42)
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.25, 0.75]
    assert any("luck" in text.get_text() for text in figure.axes[0].get_legend().get_texts())
    with pytest.raises(ValueError, match="at least 3"):
        contour_plot(results[-2:], "learning_rate", "rank", "loss")


def test_the_report():
    diverged = "TrainingDiverged: step 2: nan. The step"
    results = [made(0, value=0.7), made(1, "failed", None, diverged), made(2, value=0.6)]
    files = report_files(results, PLAN)
    everything = json.loads(files["results.json"], parse_constant=pytest.fail)
    assert everything["best"] == 2 and everything["importances"] is None and everything["plan"]["train"] == 40
    rows = [*csv.DictReader(io.StringIO(files["trials.csv"]))]
    assert [row["loss"] for row in rows] == ["0.7", "", "0.6"] and rows[1]["error"].endswith("The step")
    lines = [line for line in files["report.md"].splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 2", "| 0", "| 1"]
    assert "flatters it" in files["report.md"] and "TrainingDiverged: step 2: nan |" in files["report.md"]


@pytest.fixture
def tiny_assets(monkeypatch):
    monkeypatch.setattr(module, "load_model", lambda plan: load())
    monkeypatch.setattr(assets, "load_reviews", lambda name, max_words: reviews())


def test_the_command(tmp_path, capsys, tiny_assets):
    storage = ["search", "--storage", str(tmp_path / "s.db")]
    line = [*storage, "--trials", "8", "--out", str(tmp_path / "out"), "--json", str(tmp_path / "r.json")]
    assert cli.main([*line, "--train", "40", "--validation", "30", "--batch-size", "8"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\ntrial ") == 8 and "they flatter it" in shown
    written = json.loads((tmp_path / "r.json").read_text())
    assert len(written["trials"]) == 8 and written["plan"]["train"] == 40 and written["importances"]
    files = ["contour.png", "histories", "importance.png", "progress.png", "report.md", "results.json", "trials.csv"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    assert len(list((tmp_path / "out" / "histories").iterdir())) == 8
    assert cli.main([*storage, "--trials", "9", "--requeue-running"]) == 0  # a second machine
    assert capsys.readouterr().out.startswith("queued again: nothing\ntrial  8")
    assert cli.main([*storage, "--train", "50"]) == 1
    assert "train 40 there, 50 here" in capsys.readouterr().err
    assert cli.main([*storage, "--metric", "bleu"]) == 2 and cli.main([*storage, "--trials", "0"]) == 2


def test_queue_again_keeps_what_had_been_chosen(tmp_path):
    study = open_study(tmp_path / "s.db", replace(PLAN, default_first=False))
    trial = study.ask()
    rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)  # and then it was killed
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    queue_again(study, study.trials[0])
    results, _ = go(study, 1)
    assert results[1].choices["learning_rate"] == rate and results[1].retry_of == 0
