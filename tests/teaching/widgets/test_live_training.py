"""Runs that are watched and stopped compute what they compute alone; picture and sentence say what is noted."""

import re
import time

import pytest
import torch

from lora_course.device import seed_everything
from lora_course.teaching.widgets import live_training
from lora_course.teaching.widgets.race import Race, Run
from lora_course.training.config import TrainingConfig
from lora_course.training.loop import fit
from tests.teaching.widgets import grid
from tests.training import tiny


def training(seed=0, dropout=0.2, epochs=2, **options):
    """train(watch) of a tiny model with dropout, which draws from the generators in every step."""

    def train(watch=None):
        seed_everything(seed)
        model = tiny.model()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        config = TrainingConfig(epochs=epochs, batch_size=8, learning_rate=5e-3, seed=seed, evaluations_per_epoch=2)
        callbacks = [watch] if watch else []
        evaluate = {"evaluate": lambda model: {"accuracy": torch.rand(()).item()}} | options
        return fit(model, tiny.data(), tiny.collate, config, callbacks=callbacks, progress=False, **evaluate)

    return train


def race_to_the_end(entrants):
    race = Race(entrants, lambda: None)
    race.wait()
    return race.runs


def test_raced_runs_are_bit_for_bit_what_each_is_alone():
    entrants = {"a": training(0), "b": training(1), "c": training(1, epochs=1)}
    raced = race_to_the_end(entrants)
    for name, train in entrants.items():
        assert raced[name] == Run.of(name, train()), name
    assert raced["a"].losses != raced["b"].losses and len(raced["c"].losses) == 8 and len(raced["a"].accuracies) == 4


def test_a_step_each_by_turns():
    seen = []

    def noting(name):
        def train(watch):
            training(epochs=1)(lambda row: (seen.append(name), watch(row))[1])

        return train

    race_to_the_end({"a": noting("a"), "b": noting("b")})
    assert seen[1:-1] == ["b", "a"] * 7 and seen[0] == "a" and seen[-1] == "b"


def press(panel, name):
    next(b for b in panel.children[1].children if b.description == name).click()


def disabled(panel):
    return {b.description: b.disabled for b in panel.children[1].children}


def two():
    return live_training.explore({"seeds": {"a": training(0), "b": training(1)}, "alone": {"c": training(2)}})


def wait_until(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_nothing_starts_by_itself_and_a_race_is_drawn_to_its_end():
    panel = two()
    assert grid.shown(panel)[1] == "a: ready; b: ready." and panel.race is None
    press(panel, "Start")
    panel.race.wait()
    _, sentence = grid.shown(panel)
    runs = panel.race.runs.values()
    assert sentence == "; ".join(
        f"{run.name}: finished, step 16, loss {run.losses[-1]:.3f}, gradient {run.norms[-1]:.2f}, "
        f"accuracy {run.accuracies[-1][1]:.3f}"
        for run in runs
    ) + "."  # fmt: skip
    assert f"a: {sentence.split('; ')[0][3:]}" in grid.words(panel.picture.value)
    assert disabled(panel) == {"Start": False, "Stop": True}
    for state in grid.over_grid(panel):
        root, sentence = grid.shown(panel)
        assert sentence.startswith("c: ready" if state["race"] == "alone" else "a: finished")
        curves = [e for e in root.iter(f"{grid.SVG}polyline") if len(e.get("points").split()) > 2]
        assert len(curves) == (0 if state["race"] == "alone" else 6)
    press(panel, "Start")  # the one chosen last
    panel.race.wait()
    assert grid.shown(panel)[1].startswith("c: finished, step 16")


def test_stop_ends_both_within_a_step():
    panel = live_training.explore({"long": {"a": training(0, epochs=2000), "b": training(1, epochs=2000)}})
    press(panel, "Start")
    assert disabled(panel) == {"Start": True, "Stop": False}
    wait_until(lambda: all(len(run.losses) >= 2 for run in panel.race.runs.values()))
    press(panel, "Stop")
    reached = [len(run.losses) for run in panel.race.runs.values()]
    panel.race.wait()
    for run, steps in zip(panel.race.runs.values(), reached, strict=True):
        assert run.state == "stopped" and steps <= len(run.losses) <= steps + 2
    assert re.match(r"a: stopped, step \d+, .*; b: stopped, step \d+", grid.shown(panel)[1])
    assert disabled(panel) == {"Start": False, "Stop": True}


def test_what_a_run_raises_is_shown_and_raised_and_the_other_goes_on():
    def fails(watch):
        training(1)(lambda row: 1 / 0 if row.step == 3 else watch(row))

    panel = live_training.explore({"x": {"fine": training(0), "broken": fails}})
    press(panel, "Start")
    with pytest.raises(ZeroDivisionError):
        panel.race.wait()
    wait_until(lambda: panel.race.over)
    fine, broken = panel.race.runs.values()
    assert fine.state == "finished" and len(fine.losses) == 16
    assert broken.state == "failed: ZeroDivisionError: division by zero"
    wait_until(lambda: disabled(panel) == {"Start": False, "Stop": True})
    assert "broken, failed: ZeroDivisionError: division by zero" in grid.words(panel.picture.value)


@pytest.mark.parametrize("races", [{}, {"none": {}}, {"many": dict.fromkeys("abcde", training())}])
def test_no_race_is_refused(races):
    with pytest.raises(ValueError, match="one to four runs"):
        live_training.explore(races)


def test_curves_are_means_of_the_steps_before():
    assert live_training._means([1.0, 2.0, 6.0, 0.0], 2) == [(2, 1.5), (3, 4.0), (4, 3.0)]
    assert live_training._means([1.0], 5) == []


@pytest.mark.parametrize("values", [[], [0.0], [0.7, 0.1], [1e3, 2e4], [3.0, 3.0], [0.001], [float("nan"), 0.5]])
@pytest.mark.parametrize("floor", [0.0, None])
def test_the_axis_encloses_the_values(values, floor):
    low, high = live_training._range(values, floor)
    assert low < high and all(low - 1e-9 <= value <= high + 1e-9 for value in values if value == value)


def test_controls_are_labelled_and_the_static_picture_shows_histories():
    grid.all_controls_are_labelled(two())
    history = training()()
    root, alternative = grid.image_of(live_training.static({"one": history}, window=5))
    assert f"finished, step 16, loss {history.steps[-1].loss:.3f}" in alternative and root[1].text in alternative
    assert "ready" in repr(live_training.static())
