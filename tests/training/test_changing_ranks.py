"""Ranks that change while `fit` runs: masks and counts of AdaLoRA, real shapes under a RankController."""

import pytest
import torch
from torch import nn

from lora_course import AdapterConfig, inject, make_optimizer
from lora_course.adapters.adalora import AdaLoRA
from lora_course.adapters.rank_allocator import RankAllocator
from lora_course.adapters.rank_controller import RankController
from lora_course.training.checkpoint import CheckpointError
from lora_course.training.config import TrainingConfig
from lora_course.training.loop import fit
from tests.training import tiny

STEPS = 30
SETTINGS = TrainingConfig(epochs=2, batch_size=4, learning_rate=5e-3, seed=7)


def stop_at(step):
    return lambda row: "stop" if row.step == step else None


def run(path=None, method="lora", stop=None, settings=SETTINGS, evaluate=None, with_controller=True):
    model = tiny.model(dropout=0.2) if method == "lora" else adalora()
    optimizer = make_optimizer(model, 5e-3)
    if method == "adalora":
        RankAllocator(model, optimizer, target_rank=2, total_steps=STEPS, warmup=4, final=6, every=2)
        callbacks = []
    else:
        layers = [m for m in model.modules() if hasattr(m, "lora_A")]
        budget = sum(m.lora_A.numel() + m.lora_B.numel() for m in layers) * 3 // 2
        # thresholds this close make every window count as stalled or fast: ranks move up and down
        callbacks = [RankController(model, optimizer, budget, window=3, stalled=0.0, fast=1e-6, patience=1)]
    if not with_controller:
        callbacks = []
    history = fit(
        model,
        tiny.data(),
        tiny.collate,
        settings,
        optimizer=optimizer,
        evaluate=evaluate,
        checkpoint_path=path,
        callbacks=[*callbacks, stop_at(stop)],
        progress=False,
    )
    return model, history, callbacks


def adalora():
    model = tiny.model(dropout=0.2)
    for module in list(model.modules()):  # the same tiny model, adapted with another method
        for name, child in module.named_children():
            if hasattr(child, "base_layer"):
                setattr(module, name, child.base_layer)
    return inject(model, AdapterConfig(method="adalora", rank=4, alpha=8, dropout=0.2, trainable=["classifier"]))


def assert_same(model, other):
    here, there = model.state_dict(), other.state_dict()
    assert here.keys() == there.keys() and all(torch.equal(t, there[name]) for name, t in here.items())


@pytest.mark.parametrize("stop", [3, 13, 25])
def test_adalora_goes_on_bit_for_bit(tmp_path, stop):
    whole, _, _ = run(method="adalora")
    masks = [int(m.kept.sum()) for m in whole.modules() if isinstance(m, AdaLoRA)]
    assert sum(masks) == 2 * len(masks) and len(set(masks)) > 1  # the budget was spent unevenly
    run(tmp_path / "run.pt", method="adalora", stop=stop)
    again, _, _ = run(tmp_path / "run.pt", method="adalora")
    assert_same(again, whole)


@pytest.mark.parametrize("stop", [8, 17, 29])
def test_a_controllers_ranks_go_on_bit_for_bit(tmp_path, stop):
    whole, history, (controller,) = run()
    assert set(controller.ranks().values()) != {4}
    _, _, (halfway,) = run(tmp_path / "run.pt", stop=stop)
    again, resumed, (continued,) = run(tmp_path / "run.pt")
    assert continued.ranks() == controller.ranks() and halfway.ranks() != {}
    assert_same(again, whole)
    assert [(r.loss, r.grad_norm) for r in resumed.steps] == [(r.loss, r.grad_norm) for r in history.steps]


def test_new_tensors_are_clipped_too():
    """Clipping looks at what the optimizer trains now, not at tensors that resizing has replaced."""
    seen = []

    def norm(row):
        seen.append(row.grad_norm)

    model = tiny.model()
    optimizer = make_optimizer(model, 5e-3)
    controller = RankController(model, optimizer, 10**6, window=1, stalled=1e9, fast=1e10, patience=1)
    model.classifier.requires_grad_(False)
    optimizer.param_groups[:] = [
        {**g, "params": [p for p in g["params"] if p.requires_grad]} for g in optimizer.param_groups
    ]
    fit(model, tiny.data(), tiny.collate, SETTINGS, optimizer=optimizer, callbacks=[controller, norm], progress=False)
    assert set(controller.ranks().values()) != {4}
    assert all(value > 0 for value in seen[3:])


def test_the_best_ranks_come_back_with_the_best_parameters():
    ranks, scores = [], iter([0.9, 0.1, 0.1, 0.1])

    def evaluate(model):
        ranks.append({n: m.config.rank for n, m in model.named_modules() if hasattr(m, "lora_A")})
        return {"accuracy": next(scores)}

    settings = TrainingConfig(epochs=2, batch_size=4, learning_rate=5e-3, seed=7, patience=2, evaluations_per_epoch=2)
    model, history, (controller,) = run(settings=settings, evaluate=evaluate)
    assert ranks[0] != ranks[-1] and controller.ranks() == ranks[0]
    assert history.summary.stop_reason == "early stopping"
    assert all(
        m.lora_A.shape[0] == m.config.rank for m in model.modules() if isinstance(getattr(m, "lora_A", 0), nn.Parameter)
    )


def test_without_its_controller_a_run_is_another_run(tmp_path):
    run(tmp_path / "run.pt", stop=17)
    with pytest.raises(CheckpointError, match="callbacks differ .with a state RankController in the file, none here"):
        run(tmp_path / "run.pt", with_controller=False)
