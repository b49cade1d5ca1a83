"""The planner's widget shows the planner's numbers, whatever is asked, and finds the edge of what fits."""

import dataclasses

import pytest
import torch

from lora_course import AdapterConfig
from lora_course.memory import MemoryPlan, plan
from lora_course.memory.real import take_step
from lora_course.tables import in_units
from lora_course.teaching.widgets import memory_picture, memory_planner
from lora_course.teaching.widgets.memory_picture import CARDS, GIB, Asked, kinds, size_of
from tests.teaching.widgets import grid

SMALL = Asked("minilm", "lora", 8, False, "float32", "adamw", 2, 16, False, None)


def made_up(model, adapter, *, batch, sequence, dtype, **others):
    """A plan without running anything: some bytes for each setting, straight in batch and rank."""
    size = {"minilm": GIB // 40, "llama-2-70b": 64 * GIB}.get(model, 6 * GIB)
    if sequence > 2048:
        raise ValueError("too many tokens & no positions")
    rank = adapter.rank if adapter else 0
    saved, trained = batch * sequence * size // 5000, rank * size // 500 + 1
    peaks = {"forward": size + saved, "backward": size + saved + trained // 2, "optimizer step": size + 3 * trained}
    fields = {"parameters": size, "buffers": 7, "gradients": trained, "optimizer_state": 2 * trained}
    return MemoryPlan(
        **fields, saved_by_module={"x": saved}, phase_peaks=peaks, device="planned", trained_numbers=1, all_numbers=2
    )


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(memory_planner, "plan", made_up)
    monkeypatch.setattr(memory_planner, "PLANS", {})


def press(panel, name):
    next(b for b in panel.children[1].children if b.description == name).click()


def test_every_state_waits_for_its_plan_and_then_shows_it(quick):
    panel = memory_planner.explore()
    some = {"method": ["full", "lora"], "rank": [1, 256], "optimizer": ["adamw"], "quantization": [None, "nf4-double"]}
    some |= {"batch": [1, 128], "sequence": [16, 4096], "card": ["8 GB", "this machine"], "dtype": ["bfloat16"]}
    some |= {"model": ["minilm", "gpt2", "llama-2-70b"], "all_linear": [True, False]}
    for state in grid.over_grid(panel, **some):
        card = state.pop("card")
        asked = Asked(**state)
        if asked not in memory_planner.PLANS:
            assert "press Plan" in grid.shown(panel)[1]
            press(panel, "Plan")
        _, sentence = grid.shown(panel)
        outcome, drawn = memory_planner.PLANS[asked], grid.words(panel.picture.value)
        if isinstance(outcome, str):
            assert state["sequence"] == 4096 and "too many tokens & no positions" in sentence
            continue
        for size in (*kinds(outcome).values(), outcome.peak):
            assert in_units(size) in sentence and in_units(size) in drawn
        fits = outcome.peak <= size_of(card)
        assert (" Fits in " if fits else "Does not fit in ") in sentence


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("peak", [GIB // 50, 5 * GIB, 17 * GIB, 60 * GIB, 700 * GIB])
def test_bars_and_lines_are_to_one_scale(card, peak):
    """A bar ends left of a card's line exactly if it is shorter than the card's memory."""
    outcome = dataclasses.replace(made_up("minilm", None, batch=1, sequence=2, dtype=None), parameters=peak)
    outcome = dataclasses.replace(outcome, phase_peaks={"forward": peak, "backward": peak, "optimizer step": peak // 2})
    root = grid.parsed(memory_picture.draw(SMALL, outcome, card).svg)
    bars = [e for e in root.iter(f"{grid.SVG}rect") if "#56B4E9" in e.get("style") and float(e.get("height")) > 20]
    assert len(bars) == 3
    lengths = [float(bar.get("width")) for bar in bars]
    assert lengths[2] == pytest.approx(lengths[0] / 2, abs=0.1) and lengths[0] > 10
    lines = [e for e in root.iter(f"{grid.SVG}line") if "stroke-width:2.5" in e.get("style")]
    for line in lines:  # none, where the card lies beyond the picture
        expected = lengths[0] * size_of(card) / peak
        assert float(line.get("x1")) - memory_picture.LEFT == pytest.approx(expected, rel=0.01, abs=0.2)
    named = [e.text for e in root.iter(f"{grid.SVG}text") if e.text.startswith("Further right")]
    assert bool(lines) or card in named[0]


def test_all_methods_models_and_settings_are_arguments_of_plan(quick):
    panel = memory_planner.explore()
    for name in ("model", "method", "optimizer", "dtype", "quantization", "batch", "rank", "sequence", "card"):
        for value in grid.choices(panel.controls[name]):
            panel.controls[name].value = value
            state = panel.values()
            state.pop("card")
            model, adapter, situation = memory_planner.arguments(Asked(**state))
            assert (adapter is None) == (state["method"] == "full") and model == state["model"]
            assert situation["dtype"] in (torch.float32, torch.bfloat16)


def test_the_plan_is_the_planners_and_what_is_measured_stands_beside_it(monkeypatch):
    monkeypatch.setattr(memory_planner, "PLANS", {})
    panel = memory_planner.explore()
    for name, value in dataclasses.asdict(SMALL).items():
        if name not in ("batch", "sequence", "model"):
            panel.controls[name].value = value
    panel.controls["batch"].value, panel.controls["sequence"].value = 2, 16
    press(panel, "Measure it")
    _, sentence = grid.shown(panel)
    target = AdapterConfig("lora", 8, target_modules=["query", "value"])
    planned = plan("minilm", target, batch=2, sequence=16)
    assert memory_planner.PLANS[SMALL] == planned
    assert f"Measured on this CPU: {in_units(planned.peak)}; the plan is 0 % off." in sentence
    drawn = grid.words(panel.picture.value)
    assert "measured" in drawn and drawn.count(in_units(planned.saved)) == 2
    torch.manual_seed(3)
    state = torch.get_rng_state()
    real = take_step("minilm", target, batch=2, sequence=16)
    assert (real.saved, real.phase_peaks) == (planned.saved, planned.phase_peaks)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_measured_is_said(quick):
    panel = memory_planner.explore()
    panel.controls["dtype"].value = "bfloat16"
    press(panel, "Measure it")
    assert "Only steps in float32" in panel.sentence.value
    panel.controls["model"].value = "llama-2-70b"
    press(panel, "Measure it")
    assert "Only steps of up to 2.0 GiB" in panel.sentence.value


@pytest.mark.parametrize("what", ["batch", "rank"])
def test_the_largest_fits_and_one_more_does_not(quick, what):
    panel = memory_planner.explore()
    panel.controls["model"].value = "gpt2"
    panel.controls["batch"].value = 1
    press(panel, f"Largest {what}")
    _, sentence = grid.shown(panel)
    found = memory_planner.largest(Asked(**{k: v for k, v in panel.values().items() if k != "card"}), what, "8 GB")
    assert f"Largest {what} that fits in a card of 8 GB: {found.n}." in sentence and 1 < found.n < 1024
    asked = dataclasses.replace(SMALL, model="gpt2", all_linear=True, batch=1, sequence=64)
    peaks = [memory_planner.planned(dataclasses.replace(asked, **{what: found.n + more})).peak for more in (0, 1)]
    assert peaks[0] <= 8 * GIB < peaks[1]


def test_what_makes_no_difference_or_never_fits_is_said(quick):
    asked = dataclasses.replace(SMALL, method="full")
    assert memory_planner.largest(asked, "rank", "8 GB") == "The rank makes no difference to the memory of this step."
    assert memory_planner.largest(asked, "batch", "80 GB").n == 1024
    big = dataclasses.replace(SMALL, model="llama-2-70b")
    assert memory_planner.largest(big, "rank", "8 GB").words("8 GB") == "Not even rank 1 fits in a card of 8 GB."


@pytest.mark.parametrize("peak", [lambda n: 3 * n + 5, lambda n: max(n, 9 * n - 600, 40 * n - 9000), lambda n: 2**n])
@pytest.mark.parametrize("limit", [3, 8, 65, 1000, 31000])
def test_the_search_is_exact_and_asks_little(peak, limit):
    asked = []

    def counted(n):
        asked.append(n)
        return peak(n)

    by_trying = [n for n in range(1, 1025) if peak(n) <= limit]
    assert memory_planner.largest_that_fits(counted, limit, 1024) == (max(by_trying) if by_trying else None)
    assert len(set(asked)) <= 22


def test_controls_are_labelled_and_the_static_picture_stands_alone():
    grid.all_controls_are_labelled(memory_planner.explore())
    root, alternative = grid.image_of(memory_planner.static())
    assert "minilm, lora rank 8 on all linear layers" in alternative and root[1].text in alternative
