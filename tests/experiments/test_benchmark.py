"""The benchmark on a tiny random BERT: what it writes, that it goes on after a kill, and one run of the real thing."""

import csv
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from matplotlib.figure import Figure
from transformers import BertConfig, BertForSequenceClassification

from lora_course import AdapterConfig, adapters, cli, inject, parameter_report
from lora_course.adapters import METHODS, optimizers
from lora_course.adapters.delta_lora import DeltaLoRA
from lora_course.experiments import costs, recipes
from lora_course.experiments.benchmark import Settings, benchmark, load_histories, run
from lora_course.experiments.benchmark_report import RunResult, report_files, table_rows
from lora_course.experiments.costs import Cost, cost_of, in_turn
from lora_course.experiments.figure import Plot
from lora_course.experiments.recipes import RECIPES, configuration, grid, prepare
from lora_course.training.history import History

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(train=40, validation=10, test=30, batch_size=8, rounds=3)


class Tokenizer:
    """Words are numbers already."""

    pad_token_id = 0

    def __call__(self, texts, **_):
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}


def load():
    config = BertConfig(
        vocab_size=40,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config), Tokenizer()


def reviews():
    g = torch.Generator().manual_seed(0)

    def split(n):
        ids = torch.randint(10, 40, (n, 6), generator=g)
        ids[:, 3] = 2 + torch.arange(n) % 2
        texts = [" ".join(map(str, row)) for row in ids.tolist()]
        return Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(n)]})

    return {name: split(60) for name in ("train", "validation", "test")}


def go(out, methods=("lora", "vera"), seeds=(0, 1), settings=SETTINGS, **options):
    said = []
    return benchmark(out, grid(methods), seeds, settings, load, reviews, said.append, **options), said


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_what_it_writes(tmp_path):
    rows, said = go(tmp_path)
    assert [row["name"] for row in rows] == ["lora", "vera"] and len(said) == 6
    assert said[0].startswith("[1/4] lora, seed 0: accuracy 0.") and "min left" in said[0]
    everything = json.loads((tmp_path / "results.json").read_text())
    assert everything["rows"] == rows and len(everything["runs"]) == 4
    assert [*everything["costs"]] == ["lora-r8-all-adamw", "vera-r256-all-adamw"]
    assert everything["machine"]["torch"] and everything["machine"]["device"].startswith("CPU")
    found = [run["accuracy"] for run in everything["runs"] if run["name"] == "lora"]
    assert rows[0]["accuracy"] == pytest.approx(sum(found) / 2)
    assert rows[0]["spread"] == pytest.approx(abs(found[0] - found[1]) / math.sqrt(2))
    model, _ = load()
    inject(model, AdapterConfig(trainable=["classifier"]))
    assert rows[0]["trained_parameters"] == parameter_report(model).trainable > 0 < rows[0]["saved_bytes"]
    assert rows[0]["peak_bytes"] > rows[0]["saved_bytes"] and rows[0]["state_bytes"] == 12 * rows[0][
        "trained_parameters"
    ] + 4 * len([p for p in model.parameters() if p.requires_grad])
    assert all(row[name] > 0 for row in rows for name in ("step_ratio", "unmerged_ratio", "merged_ratio", "plain_ms"))
    assert all(row["step_ratio_low"] <= row["step_ratio"] <= row["step_ratio_high"] for row in rows)
    with open(tmp_path / "results.csv", newline="") as file:
        table = [*csv.DictReader(file)]
    assert [row["name"] for row in table] == ["lora", "vera"]
    assert float(table[1]["accuracy"]) == rows[1]["accuracy"] and int(table[1]["saved_bytes"]) == rows[1]["saved_bytes"]
    report = (tmp_path / "report.md").read_text()
    for words in ("40 sentences, once, in batches of 8", "judged on 30 others", "CPU", "BertForSequenceClassification",
                  "over 2 seed(s)", "| vera | 0.", "rank 256", "4 runs, ", "torch ",
                  "![2 configurations: test accuracy against parameters and memory.", "](frontier.png)"):  # fmt: skip
        assert words in report, words
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((tmp_path / "runs" / "vera-1.json").read_text())
    history = History.from_dict(record["history"])
    assert history.run.method == "vera" and history.run.seed == 1 and len(history.steps) == SETTINGS.steps() == 5
    loaded = load_histories(tmp_path)
    assert [(h.run.name, h.run.seed) for h in loaded] == [("lora", 0), ("lora", 1), ("vera", 0), ("vera", 1)]
    assert loaded[3].measured["test_accuracy"] == record["result"]["accuracy"]
    assert loaded[0].measured["peak_bytes"] == rows[0]["peak_bytes"] and "merged_ratio" in loaded[0].measured


def test_a_run_repeats_bit_for_bit(tmp_path):
    splits = {name: part.select(range(30)) for name, part in reviews().items()}
    a, b, other = (run(configuration("lora"), seed, SETTINGS, splits, load)[0] for seed in (3, 3, 4))
    assert (a.loss, a.accuracy) == (b.loss, b.accuracy) and a.loss != other.loss


CHILD = """
import sys
from pathlib import Path
from tests.experiments import test_benchmark as here
here.benchmark(Path(sys.argv[1]), here.grid(["lora", "vera"]), (0, 1), here.SETTINGS, here.load, here.reviews,
               lambda line: print(line, flush=True))
"""


def contents(out):
    return {path.name: path.read_bytes() for folder in ("runs", "costs") for path in (out / folder).glob("[!.]*")}


def test_sigkill_loses_what_was_being_done_and_nothing_else(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(killed)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        said = [child.stdout.readline() for _ in range(5)]  # four runs, and that the first cost is being measured
        child.kill()
    kept = contents(killed)
    assert child.returncode == -9 and said[4].startswith("3 steps and forward passes of lora")
    assert {"lora-0.json", "vera-0.json", "lora-1.json", "vera-1.json"} <= kept.keys()
    (killed / "runs" / "lora-1.json").unlink()  # as if the kill had come earlier
    del kept["lora-1.json"]
    (killed / "runs" / ".lora-0.json.abc").write_text("half")
    rows, said = go(killed)
    assert kept.items() <= contents(killed).items() and said[0].startswith("[3/4] lora, seed 1") and len(said) <= 3
    assert not (killed / "runs" / ".lora-0.json.abc").exists()
    expected, _ = go(whole)
    assert [row["accuracy"] for row in rows] == [row["accuracy"] for row in expected]
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected]


def test_what_is_there_is_not_done_again(tmp_path, monkeypatch):
    go(tmp_path)
    before = contents(tmp_path)
    again, said = go(tmp_path)
    assert said == [] and contents(tmp_path) == before
    _, said = go(tmp_path, methods=["lora", "ia3"])  # another method joins
    assert [line.split(":")[0] for line in said[:2]] == ["[2/4] ia3, seed 0", "[4/4] ia3, seed 1"] and len(said) == 3
    assert before.items() <= contents(tmp_path).items()


def test_a_folder_of_other_settings_is_refused(tmp_path, monkeypatch):
    go(tmp_path, methods=["lora"], seeds=[0])
    with pytest.raises(ValueError, match=r"lora-0.json is a run of other settings \(train 40 there, 41 here\)"):
        go(tmp_path, methods=["lora"], seeds=[0], settings=replace(SETTINGS, train=41))
    monkeypatch.setitem(RECIPES, "lora", replace(RECIPES["lora"], learning_rate=0.5))
    with pytest.raises(ValueError, match=r"learning_rate 0.\d+ there, 0.5 here"):
        go(tmp_path, methods=["lora"], seeds=[0])
    (tmp_path / "runs" / "lora-0.json").write_text('{"half')
    with pytest.raises(ValueError, match="lora-0.json is no result of this benchmark"):
        go(tmp_path, methods=["lora"], seeds=[0])
    with pytest.raises(ValueError, match="test: 61 reviews asked for, there are 60"):
        go(tmp_path, settings=replace(SETTINGS, test=61))


def test_a_run_that_diverges_is_said_to(tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "lora", replace(RECIPES["lora"], learning_rate=1e30))
    rows, _ = go(tmp_path, methods=["lora"], seeds=[0])
    assert math.isnan(rows[0]["accuracy"]) and "| lora | diverged |" in (tmp_path / "report.md").read_text()
    assert "There is no configuration" in (tmp_path / "report.md").read_text()
    everything = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)  # of NaN
    assert everything["rows"][0]["accuracy"] is None
    assert go(tmp_path, methods=["lora"], seeds=[0])[1] == []


def test_rows_by_hand():
    dora = configuration("dora")

    def result(seed, accuracy):
        return RunResult("dora", seed, accuracy, 0.5, 0.6, 0.7, 100, 2.0 + seed, 1.0, "CPU", "Bert")

    runs = [result(0, 0.5), result(1, 0.7), result(2, 0.9)]
    seconds = {
        "step": [2.0, 3.0, 9.0],
        "reference step": [1.0, 2.0, 9.0],
        "unmerged": [3.0, 3.0, 6.0],
        "plain": [2.0, 1.0, 2.0],
    }
    cost = Cost(8, 50, 60, 70, seconds)
    (row,) = table_rows([dora], runs, {dora.shape: cost})
    assert row["accuracy"] == pytest.approx(0.7) and row["spread"] == pytest.approx(0.2)
    assert (row["step_ms"], row["step_ratio"]) == (3000.0, 1.5)  # median of 2, 1.5 and 1, not 3/2 by luck
    assert (row["step_ratio_low"], row["step_ratio_high"]) == (1.25, 1.75)
    assert (row["unmerged_ratio"], row["merged_ratio"], row["train_seconds"]) == (3.0, None, 3.0)
    assert (row["trained_parameters"], row["saved_bytes"], row["state_bytes"], row["peak_bytes"]) == (8, 50, 60, 70)
    settings = {"train": 1, "epochs": 2, "batch_size": 3, "rounds": 3}
    plot = Plot(Figure(), "Picture", "It shows.")
    files = report_files([row], runs, {dora.shape: cost}, settings, plot)
    report = files["report.md"].decode()
    assert "| dora | 0.700 ± 0.200 | 8 | 50 B | 70 B | 3 s | 1.50 (1.25 to 1.75) | 3.00 |  | 0.002 |" in report
    assert "by about 4.6 points" in report and "1 sentences, 2 times" in report  # sqrt(.7 * .3 / 100)
    assert "![Picture. It shows.](frontier.png)" in report
    (row,) = table_rows([dora], runs[:1], {dora.shape: cost})
    assert math.isnan(row["spread"])
    assert b"| dora | 0.500 | 8 |" in report_files([row], runs[:1], {}, settings, plot)["report.md"]


def test_all_that_is_timed_takes_turns():
    order = []
    timed = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = in_turn(timed, 3, torch.device("cpu"))
    assert "".join(order) == "abcbcacab"
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_every_method_has_a_recipe_and_a_cost():
    assert RECIPES.keys() == {"full", *METHODS}
    reference = configuration("lora")
    settings = replace(SETTINGS, rounds=1)
    found = {name: cost_of(configuration(name), reference, settings, reviews()["train"], load) for name in RECIPES}
    assert all(cost.trained and cost.saved_bytes and cost.state_bytes for cost in found.values())
    assert found["lora_fa"].saved_bytes < found["lora"].saved_bytes < found["dora"].saved_bytes
    assert found["vera"].state_bytes < found["lora"].state_bytes < found["full"].state_bytes
    assert [name for name, cost in found.items() if "merged" not in cost.seconds] == ["full", "loftq", "houlsby"]
    assert {len(seconds) for cost in found.values() for seconds in cost.seconds.values()} == {1}  # without the warm-up


def test_grids_and_names():
    found = grid(["lora", "full", "ia3"], ranks=[4, 16], targets=["mlp"], rates=[1e-3])
    assert [c.name for c in found] == [
        "lora r=4 mlp lr=0.001",
        "lora r=16 mlp lr=0.001",
        "full lr=0.001",
        "ia3 mlp lr=0.001",
    ]
    assert (found[1].recipe.rank, found[1].recipe.alpha, found[1].recipe.targets) == (16, 32, "mlp")
    assert found[0].shape != found[1].shape == configuration("lora", rank=16, targets="mlp").shape
    assert found[0].file == "lora_r=4_mlp_lr=0.001"
    assert [c.name for c in grid(["dora"])] == ["dora"] and grid(["dora"])[0].recipe == RECIPES["dora"]
    with pytest.raises(ValueError, match="unknown targets 'mlps'; there are all, attention"):
        grid(["lora"], targets=["mlps"])
    model = load()[0]
    parts = {name: recipes.target_names(model, name) for name in ("attention", "query-value", "mlp")}
    assert {name: len(found) for name, found in parts.items()} == {"attention": 8, "query-value": 4, "mlp": 4}
    assert "bert.encoder.layer.1.output.dense" in parts["mlp"]
    assert "bert.encoder.layer.1.attention.output.dense" in parts["attention"]


def test_what_hangs_on_the_optimizer():
    model, optimizer = prepare("delta_lora", load()[0], RECIPES["delta_lora"], total_steps=20, seed=0)
    layers = [layer for layer in model.modules() if isinstance(layer, DeltaLoRA)]
    inputs = {"input_ids": torch.randint(2, 40, (4, 6)), "labels": torch.tensor([0, 1, 0, 1])}
    for step in range(3):
        assert all(float(layer.lam) == (0.5 if step > 2 else 0.0) for layer in layers)
        model(**inputs).loss.backward()
        optimizer.step()
    assert all(float(layer.lam) == 0.5 for layer in layers)  # warm-up is 2 of 20 steps
    _, optimizer = prepare("lora_fa", load()[0], RECIPES["lora_fa"], total_steps=20, seed=0)
    assert isinstance(optimizer, optimizers.ProjectedAdamW)
    model, optimizer = prepare("adalora", load()[0], RECIPES["adalora"], total_steps=10, seed=0)
    for _ in range(10):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
    kept = [int(layer.kept.sum()) for layer in adapters(model).values()]
    assert sum(kept) <= recipes.TARGET_RANK * len(kept) < RECIPES["adalora"].rank * len(kept)
    model, optimizer = prepare("full", load()[0], RECIPES["full"], 10, 0)
    assert all(p.requires_grad for p in model.parameters())
    model, optimizer = prepare("lora", load()[0], replace(RECIPES["lora"], optimizer="lora_plus", ratio=4.0), 10, 0)
    assert sorted(group["lr"] for group in optimizer.param_groups)[-1] == 4 * RECIPES["lora"].learning_rate
    with pytest.raises(ValueError, match="unknown method 'lorra'; there are lora"):
        prepare("lorra", load()[0], RECIPES["lora"], 10, 0)


def test_unknown_methods_on_the_command_line(capsys, tmp_path):
    assert cli.main(["bench", "methods", "--methods", "lora", "lorra", "--out", str(tmp_path)]) == 2
    assert "unknown method 'lorra'; there are full, lora, rslora" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_the_packaged_encoder_from_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "WARM_UP_ROUNDS", 0)
    monkeypatch.setattr(Settings, "__init__", _small(Settings.__init__))
    line = f"bench methods --methods ia3 --seeds 5 --train 8 --test 8 --out {tmp_path}"
    assert cli.main(line.split()) == 0
    out = capsys.readouterr().out
    assert "[1/1] ia3, seed 5" in out and "| ia3 | 0." in out and "BertForSequenceClassification" in out
    assert cli.main([*line.split()[:-4], "--test", "99999", "--out", str(tmp_path)]) == 1
    assert "test: 99999 reviews asked for, there are" in capsys.readouterr().err


def _small(init):
    return lambda self, **chosen: init(self, **{"validation": 4, "rounds": 1, **chosen})
