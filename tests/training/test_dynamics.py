"""What LayerRecorder writes down, against the same computed by hand, and that a resumed run has all of it."""

import math

import pytest
import torch

from lora_course import AdapterConfig, adapters, inject
from lora_course.adapters import METHODS
from lora_course.training.config import TrainingConfig
from lora_course.training.dynamics import LayerRecorder, change_spectrum
from lora_course.training.history import History, LayerRow
from lora_course.training.loop import fit
from lora_course.training.metrics import effective_rank
from tests.training import tiny

SETTINGS = {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "seed": 3}


def run(model, every=1, **options):
    config = TrainingConfig(**SETTINGS | options.pop("config", {}))
    callbacks = [LayerRecorder(model, every), *options.pop("callbacks", [])]
    return fit(model, tiny.data(), tiny.collate, config, progress=False, callbacks=callbacks, **options)


def test_gradients_and_spectra_by_hand():
    model, seen = tiny.model(), {}

    def look(row):
        for name, layer in adapters(model).items():
            A, B = layer.lora_A.grad, layer.lora_B.grad
            change = torch.linalg.svdvals(layer.delta_weight().double())
            seen[row.step, name] = A.norm().item(), B.norm().item(), change

    history = run(model, config={"max_grad_norm": None}, callbacks=[look])
    assert len(history.layers) == 16 * len(adapters(model)) == len(seen)
    for row in history.layers:
        A, B, change = seen[row.step, row.layer]
        assert row.grad_norm_A == pytest.approx(A, rel=1e-5) and row.grad_norm_B == pytest.approx(B, rel=1e-5)
        assert len(row.singular_values) <= 4
        assert row.singular_values == pytest.approx(change[: len(row.singular_values)].tolist(), rel=1e-4)
        assert row.norm == pytest.approx(change.norm().item(), rel=1e-4, abs=1e-12)
    first = [row for row in history.layers if row.step == 1]
    assert all(row.grad_norm_A == 0 < row.grad_norm_B for row in first)  # B is zero
    assert all(row.singular_values == [] and row.effective_rank == row.norm == 0 for row in first)  # and lr, in warm-up
    assert all(row.grad_norm_A > 0 and 1 <= row.effective_rank <= 4 for row in history.layers if row.step > 3)


def test_norms_are_those_before_clipping():
    free, clipped = (run(tiny.model(), config={"max_grad_norm": norm}) for norm in (None, 1e-3))
    first = [[row for row in history.layers if row.step == 1] for history in (free, clipped)]
    for a, b in zip(*first, strict=True):
        assert a.grad_norm_B == pytest.approx(b.grad_norm_B, rel=1e-3)
    assert clipped.steps[0].grad_norm > 1e-2


def test_recording_changes_nothing_and_comes_every_so_often():
    model, plain = tiny.model(), tiny.model()
    history = run(model, every=5)
    fit(plain, tiny.data(), tiny.collate, TrainingConfig(**SETTINGS), progress=False)
    assert all(torch.equal(p, tiny.trained(plain)[n]) for n, p in tiny.trained(model).items())
    assert sorted({row.step for row in history.layers}) == [1, 6, 11, 16]
    assert all(p.grad is None for p in model.parameters())


def test_a_resumed_run_has_all_layers(tmp_path):
    whole = run(tiny.model())
    path = tmp_path / "run.pt"
    run(tiny.model(), checkpoint_path=path, callbacks=[lambda row: "stop" if row.step == 7 else None])
    history = run(tiny.model(), checkpoint_path=path)
    assert history.resumed_at == [7] and [row.step for row in history.layers] == [row.step for row in whole.layers]
    assert history.layers == whole.layers


def test_round_trip_and_older_files(tmp_path):
    history = run(tiny.model(), every=8)
    history.measured["test_accuracy"] = 0.5
    history.save(tmp_path / "h.json")
    assert History.load(tmp_path / "h.json") == history
    rows = history.layer_rows()
    assert len(rows) == len(history.layers) and rows[-1]["norm"] == history.layers[-1].norm and rows[0]["run"] == "lora"
    old = history.to_dict()
    del old["layers"], old["measured"]
    old["schema"] = 1
    read = History.from_dict(old)
    assert read.layers == [] and read.measured == {} and read.steps == history.steps
    with pytest.raises(ValueError, match=r"layers\[0\] lacks grad_norm_A, grad_norm_B, singular_values, step"):
        History.from_dict(history.to_dict() | {"layers": [{"layer": "x"}]})


@pytest.mark.parametrize("method", [name for name in METHODS if name != "houlsby"])
def test_every_method_that_changes_a_weight(method):
    model = torch.nn.Sequential(torch.nn.Linear(12, 10))
    inject(model, AdapterConfig(method, rank=4, target_modules=["0"]))
    (layer,) = adapters(model).values()
    with torch.no_grad():
        for p in layer.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    values = change_spectrum(layer)
    expected = torch.linalg.svdvals(layer.delta_weight().detach().double())
    assert torch.allclose(values, expected[: len(values)], rtol=1e-4, atol=1e-6)
    assert values.norm() == pytest.approx(layer.delta_weight().norm().item(), rel=1e-4)


def test_what_has_nothing_to_record():
    model = inject(torch.nn.Sequential(torch.nn.Linear(4, 4)), AdapterConfig("houlsby", rank=2, target_modules=["0"]))
    with pytest.raises(ValueError, match="nothing to record of '0': a bottleneck adapter"):
        LayerRecorder(model)
    with pytest.raises(ValueError, match="no adapters"):
        LayerRecorder(torch.nn.Linear(3, 3))


def test_effective_rank():
    assert effective_rank([2.0] * 5) == pytest.approx(5) and effective_rank([3.0, 0.0]) == 1 and effective_rank([]) == 0
    p = (0.75, 0.25)
    assert effective_rank([3.0, 1.0]) == pytest.approx(math.exp(-sum(x * math.log(x) for x in p)))
    assert LayerRow(1, "x", 0.0, 0.0, [3.0, 4.0]).norm == 5
    for bad in ([-1.0, 2.0], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match="finite and 0 or more"):
            effective_rank(bad)
