"""Two processes under torchrun, on the CPU, against one: transformers.Trainer with an injected model, nothing of ours
between them. The runs are those of two_processes.py; both sides see the same 8 or 16 examples in every step.

Float64 differs by the order in which a mean is summed, about 1e-16 of the gradient. AdamW divides a gradient by its own
size plus 1e-8, so a nearly vanishing one can turn that into 1e-8 of the learning rate of 5e-3 in a step: 1e-9 holds
for all 12. Trainer adds losses up in float32, whose rounding is 1.2e-7, so those are held to 5e-7.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close

from lora_course import load_adapter
from lora_course.adapters.resize import resize_rank
from lora_course.training.config import TrainingConfig
from lora_course.training.loop import fit
from tests.training import tiny, two_processes

pytest.importorskip("accelerate", reason="transformers.Trainer needs accelerate")
pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this build of torch has no gloo"
)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(results of rank 0, of rank 1, their folder)"""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    run = subprocess.run(
        [*command, str(ROOT / "tests" / "training" / "two_processes.py"), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=540,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return *(torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)), folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """run(name): its results in this one process, computed once."""
    folder, done = tmp_path_factory.mktemp("one"), {}

    def run(name):
        if name not in done:
            done[name] = two_processes.train(name, folder, processes=1)
        return done[name]

    return run


runs = pytest.mark.parametrize("name", two_processes.RUNS)


@runs
def test_two_processes_train_as_one_does(both, one, name):
    two, alone = both[0][name], one(name)
    assert (two["wrapped"] == "DistributedDataParallel") and alone["wrapped"] != two["wrapped"]
    assert len(two["losses"]) == two_processes.STEPS and two["losses"][-1] < two["losses"][0]
    assert_close(two["losses"], alone["losses"], rtol=5e-7, atol=0)
    assert_close(two["norms"], alone["norms"], rtol=0, atol=1e-9)
    assert_close(two["parameters"], alone["parameters"], rtol=0, atol=1e-9)
    assert_close(two["buffers"], alone["buffers"], rtol=0, atol=1e-9)


@runs
def test_both_ranks_end_with_the_same_bits(both, name):
    for part in ("parameters", "buffers"):
        here, there = both[0][name][part], both[1][name][part]
        assert here.keys() == there.keys() and all(torch.equal(here[key], there[key]) for key in here)


def test_the_base_of_delta_lora_follows_from_the_same_step(both, one):
    """A_K, B_K, lam and the count are buffers: compared above; here, that there is something to compare."""
    buffers = both[0]["delta_lora"]["buffers"]
    starts = [t for name, t in buffers.items() if name.endswith("start_B")]
    assert starts and all(t.any() for t in starts)
    assert {float(t) for name, t in buffers.items() if name.endswith(".lam")} == {0.5}
    assert {int(t) for name, t in buffers.items() if name.endswith(".steps")} == {two_processes.STEPS}


def test_adalora_masks_the_same_ranks(both, one):
    masks = one("adalora")["masks"]
    ranks = [sum(mask) for mask in masks.values()]
    assert sum(ranks) == 2 * len(ranks) and len(set(ranks)) > 1  # the budget was spent, unevenly
    assert both[0]["adalora"]["masks"] == both[1]["adalora"]["masks"] == masks


def test_only_rank_0_writes(both):
    """One adapter and one checkpoint; the other process keeps its random state in that, for resuming, and no more."""
    first, second, folder = both
    for name in two_processes.RUNS:
        assert sorted(path.name for path in (folder / name).iterdir()) == ["adapter", "checkpoint-12"]
        found = sorted(path.name for path in (folder / name / "adapter").iterdir())
        assert found == ["adapter_config.json", "adapter_model.safetensors"]
        assert any("adapter_model" in path for path in first["written"])
    assert {Path(path).name for path in second["written"]} <= {*two_processes.RUNS, "checkpoint-12", "rng_state_1.pth"}


def test_the_saved_adapter_is_what_was_trained(both):
    first, _, folder = both
    trained = two_processes.model_of("bert", "lora")
    trained.load_state_dict(first["lora"]["parameters"], strict=False)
    opened = load_adapter(two_processes.model_of("bert", "lora"), folder / "lora" / "adapter")
    batch = tiny.collate(tiny.data(5))
    assert torch.equal(opened.eval()(**batch).logits, trained.eval()(**batch).logits)


def test_hand_written_steps_and_shared_dropout_under_ddp(both):
    assert both[0]["gradients"] == both[1]["gradients"] == dict.fromkeys(("lora", "lora_fa", "dora", "vera"), True)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_sharded_over_both_processes_it_trains_the_same(both, method):
    """FSDP2, each block cut in two: rank 0's gathered adapters against the whole model's."""
    results = [both[rank]["fsdp"][method] for rank in (0, 1)]
    halves = [sum(pair) / 2 for pair in zip(*(r["losses"]["sharded"] for r in results), strict=True)]
    assert_close(halves, results[0]["losses"]["whole"], rtol=5e-7, atol=0)
    assert halves[-1] < halves[0]
    assert_close(results[0]["gathered"], results[0]["whole"], rtol=0, atol=1e-9)
    assert all("gather its state_dict into a whole model" in r["refused"]["save_adapter"] for r in results)


@pytest.mark.parametrize("method", ["delta_lora", "adalora"])
def test_what_needs_whole_parameters_refuses_sharded_ones(both, method):
    message = both[1]["fsdp"][method]["refused"][method]
    assert "whole parameters" in message and "under DistributedDataParallel, not FSDP" in message


def test_fit_refuses_to_train_two_copies(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="fit.. trains in one process, and 2 were started.*transformers.Trainer"):
        fit(tiny.model(), tiny.data(), tiny.collate, TrainingConfig(), progress=False)


def test_ranks_are_not_resized_under_ddp(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    model = tiny.model()
    with pytest.raises(ValueError, match="cannot be resized while 2 processes train it.*AdaLoRA"):
        resize_rank(model, 2)
    assert model.bert.encoder.layer[0].attention.self.query.config.rank == 4
