"""A run that is killed at any moment goes on to the same parameters, bit for bit, dropout included."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lora_course.training.checkpoint import CheckpointError
from lora_course.training.config import TrainingConfig
from lora_course.training.loop import fit
from lora_course.training.losses import r_drop
from tests.training import tiny

SETTINGS = TrainingConfig(epochs=3, batch_size=4, learning_rate=5e-3, seed=7, checkpoint_every=2, patience=5)


def evaluate(model):
    with torch.no_grad():
        return {"accuracy": model(**tiny.collate(tiny.data(12, seed=9))).logits.softmax(-1)[::2, 0].mean()}


def run(path=None, settings=SETTINGS, model=None, data=None, **options):
    model = model or tiny.model(dropout=0.2)
    history = fit(
        model,
        data or tiny.data(),
        tiny.collate,
        settings,
        evaluate=evaluate,
        checkpoint_path=path,
        progress=False,
        **options,
    )
    return tiny.trained(model), history


def assert_same(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def stop_at(step):
    return lambda row: "stop" if row.step == step else None


@pytest.mark.parametrize("step", [1, 7, 15, 16, 44])
def test_stop_and_go_on(tmp_path, step):
    expected, whole = run()
    run(tmp_path / "run.pt", callbacks=[stop_at(step)])
    got, history = run(tmp_path / "run.pt")
    assert_same(got, expected)
    assert history.resumed_at == [step] and history.summary.stop_reason == "finished"
    assert [(r.step, r.loss, r.lr, r.grad_norm) for r in history.steps] == [
        (r.step, r.loss, r.lr, r.grad_norm) for r in whole.steps
    ]
    again, _ = run(tmp_path / "run.pt")  # a finished run comes back as it ended
    assert_same(again, expected)


CHILD = """
import sys, time
from tests.training.test_checkpoint import run
run(sys.argv[1], callbacks=[lambda row: (print(row.step, flush=True), time.sleep(0.005))[0]])
"""


def test_killed_at_random_moments(tmp_path):
    expected, _ = run()
    dice, kills = random.Random(0), 0
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "run.pt")],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        child.stdout.readline()  # the first step of this life is done
        time.sleep(dice.uniform(0, 0.12))
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
        child.stdout.close()
    assert kills
    got, _ = run(tmp_path / "run.pt")
    assert_same(got, expected)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_another_run_is_refused_and_kept(tmp_path):
    path = tmp_path / "run.pt"
    run(path, callbacks=[stop_at(5)])
    content = path.read_bytes()
    from dataclasses import replace

    for words, options in [
        ("learning_rate 0.005 in the file, 0.1 here", {"settings": replace(SETTINGS, learning_rate=0.1)}),
        ("loss model_loss in the file, r_drop\\(4\\) here", {"loss": r_drop(4.0)}),
        ("examples 60 in the file, 40 here", {"data": tiny.data(40)}),
        ("frozen base differ", {"model": tiny.model(dropout=0.2, seed=1)}),
        ("trainable tensors differ", {"model": tiny.model(dropout=0.2, labels=3)}),
    ]:
        with pytest.raises(CheckpointError, match=words):
            run(path, **options)
    assert path.read_bytes() == content
    run(path, resume=False, callbacks=[stop_at(1)])
    assert path.read_bytes() != content


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b"", lambda b: b[:900] + b"\0" * 64 + b[964:]])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "run.pt"
    run(path, callbacks=[stop_at(5)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="cannot be read.*resume=False"):
        run(path)
