"""RankController: decisions by relative improvement, hysteresis, a budget, and a state to go on from."""

import pytest
import torch
from torch import nn

from lora_course import AdapterConfig, adapters, inject
from lora_course.adapters.rank_controller import RankController, needed_rank
from lora_course.adapters.resize import resize_rank

COST = (10 + 8) + (8 + 6)  # parameters a rank costs in both layers


def setup(budget=8 * COST, rank=4, **settings):
    torch.manual_seed(0)
    model = inject(
        nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 6)),
        AdapterConfig(rank=rank, target_modules="all-linear"),
    )
    for layer in adapters(model).values():
        nn.init.orthogonal_(layer.lora_A), nn.init.orthogonal_(layer.lora_B)  # a flat spectrum: all ranks in use
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    settings = {"window": 3, "patience": 2, "step": 1} | settings
    return model, optimizer, RankController(model, optimizer, budget, **settings)


def feed(controller, *levels):
    """One window of a constant loss for each level; returns what changed in each."""
    return [[controller.update(level) for _ in range(controller.window)][-1] for level in levels]


def weaken(layer, values):
    """Give s B A these singular values."""
    with torch.no_grad():
        layer.lora_A.copy_(torch.linalg.qr(torch.randn(layer.in_features, layer.config.rank)).Q.T)
        layer.lora_B.copy_(torch.linalg.qr(torch.randn(layer.out_features, layer.config.rank)).Q)
        layer.lora_B.mul_(torch.tensor(values) / layer.config.scaling)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e5])
def test_it_grows_when_the_loss_has_stalled_for_long_enough(scale):
    _, _, controller = setup()
    assert feed(controller, *(scale * level for level in (1.0, 0.999, 0.998))) == [{}, {}, {"0": 5, "2": 5}]
    assert controller.ranks() == {"0": 5, "2": 5}
    # windows begin anew: two comparisons are needed again
    assert feed(controller, *(scale * level for level in (1.0, 1.0, 1.1)))[:2] == [{}, {}]
    assert feed(setup()[2], *(scale * level for level in (1.0, 2.0, 3.0)))[-1] == {"0": 5, "2": 5}  # rising is stalled


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e5])
def test_it_gives_up_what_is_of_little_use_while_the_loss_falls_fast(scale):
    model, _, controller = setup()
    weaken(model[0], [1.0, 0.5, 0.05, 0.04])
    weaken(model[2], [1.0, 1.0, 1.0, 1.0])
    assert feed(controller, *(scale * level for level in (1.0, 0.8, 0.6))) == [{}, {}, {"0": 2}]
    assert controller.ranks() == {"0": 2, "2": 4} and model[0].lora_A.shape == (2, 10)


def test_between_the_thresholds_and_without_patience_nothing_happens():
    _, _, controller = setup()
    assert not any(feed(controller, *(0.97**n for n in range(12))))  # 3 % a window: neither stalled nor fast
    _, _, controller = setup()
    levels = [1.0]
    for n in range(12):  # stalled, fast, stalled, fast ...
        levels.append(levels[-1] * (1.0 if n % 2 else 0.8))
    assert not any(feed(controller, *levels))
    _, _, controller = setup()
    assert feed(controller, 1.0, 0.8, 0.8, 0.8) == [{}, {}, {}, {"0": 5, "2": 5}]  # one fast, then two stalled in a row
    assert setup(patience=1)[2].patience == 1 and feed(setup(patience=1)[2], 1.0, 1.0)[-1] == {"0": 5, "2": 5}


def test_the_budget_is_never_exceeded_and_goes_to_the_flattest_spectrum():
    model, _, controller = setup(budget=4 * COST + 15)  # one more rank for "2" (14 parameters), none for "0" (18)
    assert feed(controller, 1.0, 1.0, 1.0)[-1] == {"2": 5}
    assert controller.parameters() == 4 * COST + 14 <= controller.budget
    assert not any(feed(controller, *[1.0] * 9))
    model, _, controller = setup(budget=4 * COST + 20)
    weaken(model[0], [1.0, 0.9, 0.9, 0.9])
    weaken(model[2], [1.0, 0.9, 0.8, 0.3])
    assert feed(controller, 1.0, 1.0, 1.0)[-1] == {"0": 5}  # 18 of 20; the other order would have spent 14
    model, _, controller = setup()
    weaken(model[0], [1.0, 0.9, 0.8, 0.001])  # does not use the ranks it has
    assert feed(controller, 1.0, 1.0, 1.0)[-1] == {"2": 5}


def test_a_layer_never_gets_more_ranks_than_its_matrix_has():
    _, _, controller = setup(budget=100 * COST, step=50)
    assert feed(controller, 1.0, 1.0, 1.0)[-1] == {"0": 8, "2": 6}
    assert not any(feed(controller, *[1.0] * 6))


def train(model, optimizer, controller, steps):
    """Returns the rank changes and the losses."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(32, 10, generator=g), torch.randn(32, 6, generator=g)
    changes, losses = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        changes += controller.update(loss.item()).values()
    return changes, losses


EAGER = {"window": 4, "patience": 1, "tolerance": 0.2, "stalled": 0.03}


def test_it_trains_through_shrinking_and_growing():
    model, optimizer, controller = setup(**EAGER)
    changes, losses = train(model, optimizer, controller, 60)
    assert min(changes) < 4 and any(b > a for a, b in zip(changes, changes[1:], strict=False))
    assert losses[-1] < 0.3 * losses[0] and losses[-1] < losses[20]
    members = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert members == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    model, optimizer, controller = setup(**EAGER)
    train(model, optimizer, controller, 22)
    parts = {"ranks": controller.state_dict(), "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    parts["random"] = torch.get_rng_state()
    torch.save(parts, tmp_path / "run.pt")
    assert set(controller.ranks().values()) != {4}
    changes, _ = train(model, optimizer, controller, 40)
    expected = model.state_dict()
    assert changes  # new rows of A are drawn at random

    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    model, optimizer, controller = setup(**EAGER)
    controller.load_state_dict(saved["ranks"])
    model.load_state_dict(saved["model"]), optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["random"])
    assert train(model, optimizer, controller, 40)[0] == changes
    assert all(torch.equal(t, expected[n]) for n, t in model.state_dict().items())


def test_needed_rank():
    values = torch.tensor([3.0, 2.0, 1.0, 0.0])
    assert [needed_rank(values, t) for t in (0.0, 1 / 14 - 1e-6, 1 / 14 + 1e-6, 5 / 14 + 1e-6)] == [3, 3, 2, 1]
    assert needed_rank(torch.tensor([1.0, 1e-3]), 0.99) == 1
    assert needed_rank(torch.zeros(4), 0.01) == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stalled": 0.05, "fast": 0.05}, "stalled must be below fast"),
        ({"window": 0}, "at least 1"),
        ({"patience": 0}, "at least 1"),
        ({"step": 0}, "at least 1"),
        ({"tolerance": 1.0}, r"tolerance in \[0, 1\)"),
        ({"budget": 4 * COST - 1}, "begin with 128 parameters, over the budget of 127"),
    ],
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(ValueError, match=words):
        setup(**settings)


def test_bad_losses_and_states():
    model, optimizer, controller = setup()
    for loss in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="the loss is"):
            controller.update(loss)
    state = controller.state_dict()
    state["ranks"] = {"0": 3}
    with pytest.raises(ValueError, match=r"is for \['0'\], the model has \['0', '2'\]"):
        controller.load_state_dict(state)
    with pytest.raises(ValueError, match="no LoRA layer"):
        RankController(nn.Linear(2, 2), optimizer, 100)
    resize_rank(model, 2, optimizer)
    assert controller.ranks() == {"0": 2, "2": 2}  # it reads them from the layers
