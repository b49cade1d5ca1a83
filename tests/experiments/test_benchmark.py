"""The benchmark on a tiny random BERT: what it writes, that it goes on after a kill, and one run of the real thing."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification

from lora_course import AdapterConfig, adapters, cli, inject, parameter_report
from lora_course.adapters import METHODS, optimizers
from lora_course.adapters.delta_lora import DeltaLoRA
from lora_course.experiments import benchmark as module
from lora_course.experiments import recipes
from lora_course.experiments.benchmark import Settings, benchmark, load_histories, run
from lora_course.experiments.benchmark_report import Cost, RunResult, report_files, table_rows
from lora_course.experiments.recipes import RECIPES, prepare
from lora_course.training.history import History

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
    return benchmark(out, methods, seeds, settings, load, reviews, said.append, **options), said


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_what_it_writes(tmp_path):
    rows, said = go(tmp_path)
    assert [row["method"] for row in rows] == ["lora", "vera"] and len(said) == 5
    assert said[0].startswith("[1/4] lora, seed 0: accuracy 0.") and "min left" in said[0]
    everything = json.loads((tmp_path / "results.json").read_text())
    assert everything["rows"] == rows and len(everything["runs"]) == 4 and len(everything["costs"]) == 2
    assert everything["machine"]["torch"] and everything["machine"]["device"].startswith("CPU")
    found = [run["accuracy"] for run in everything["runs"] if run["method"] == "lora"]
    assert rows[0]["accuracy"] == pytest.approx(sum(found) / 2)
    assert rows[0]["spread"] == pytest.approx(abs(found[0] - found[1]) / math.sqrt(2))
    model, _ = load()
    inject(model, AdapterConfig(trainable=["classifier"]))
    assert rows[0]["trained_parameters"] == parameter_report(model).trainable > 0 < rows[0]["saved_bytes"]
    assert rows[0]["step_ratio"] == 1 and rows[1]["step_ratio"] > 0
    with open(tmp_path / "results.csv", newline="") as file:
        table = [*csv.DictReader(file)]
    assert [row["method"] for row in table] == ["lora", "vera"]
    assert float(table[1]["accuracy"]) == rows[1]["accuracy"] and int(table[1]["saved_bytes"]) == rows[1]["saved_bytes"]
    report = (tmp_path / "report.md").read_text()
    for words in ("40 sentences, once, in batches of 8", "judged on 30 others", "CPU", "BertForSequenceClassification",
                  "over 2 seed(s)", "| vera | 0.", "rank 256", "4 runs, ", "torch "):  # fmt: skip
        assert words in report, words
    record = json.loads((tmp_path / "runs" / "vera-1.json").read_text())
    history = History.from_dict(record["history"])
    assert history.run.method == "vera" and history.run.seed == 1 and len(history.steps) == SETTINGS.steps() == 5


def test_a_run_repeats_bit_for_bit(tmp_path):
    splits = {name: part.select(range(30)) for name, part in reviews().items()}
    a, b, other = (run("lora", seed, SETTINGS, splits, load)[0] for seed in (3, 3, 4))
    assert (a.loss, a.accuracy) == (b.loss, b.accuracy) and a.loss != other.loss


def test_a_kill_loses_the_run_in_progress_and_no_other(tmp_path, monkeypatch):
    done, real = [], module.run

    def noted(method, seed, *rest):
        done.append((method, seed))
        return real(method, seed, *rest)

    def killed(method, seed, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        return noted(method, seed, *rest)

    monkeypatch.setattr(module, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["lora-0.json", "vera-0.json"]
    before = (tmp_path / "runs" / "lora-0.json").read_bytes()
    done.clear()
    monkeypatch.setattr(module, "run", noted)
    rows, _ = go(tmp_path)
    assert done == [("lora", 1), ("vera", 1)] and [row["seeds"] for row in rows] == [2, 2]
    assert (tmp_path / "runs" / "lora-0.json").read_bytes() == before
    done.clear()
    timed = json.loads((tmp_path / "costs.json").read_text())
    again, said = go(tmp_path)
    assert (again, done, said) == (rows, [], []) and json.loads((tmp_path / "costs.json").read_text()) == timed
    go(tmp_path, methods=["lora", "ia3"])  # another method joins: its runs are new, and times are taken anew, together
    assert done == [("ia3", 0), ("ia3", 1)]
    assert [cost["method"] for cost in json.loads((tmp_path / "costs.json").read_text())["result"]] == ["lora", "ia3"]


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
    everything = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)  # of NaN
    assert everything["rows"][0]["accuracy"] is None
    assert go(tmp_path, methods=["lora"], seeds=[0])[1] == []


def test_rows_by_hand():
    def result(method, seed, accuracy):
        return RunResult(method, seed, accuracy, 0.5, 0.6, 100, 1e-3, 2.0, 1.0, "CPU", "Bert")

    runs = [result("dora", 0, 0.5), result("dora", 1, 0.7), result("dora", 2, 0.9)]
    costs = [Cost("lora", 7, 30, [1.0, 2.0, 9.0]), Cost("dora", 8, 50, [2.0, 3.0, 9.0])]
    (row,) = table_rows(runs, costs)
    assert row["accuracy"] == pytest.approx(0.7) and row["spread"] == pytest.approx(0.2)
    assert (row["step_ms"], row["step_ratio"]) == (3000.0, 1.5)  # median of 2, 1.5 and 1, not 3/2 by luck
    assert (row["trained_parameters"], row["saved_bytes"], row["seeds"]) == (8, 50, 3)
    settings = {"train": 1, "epochs": 2, "batch_size": 3, "rounds": 3}
    report = report_files([row], runs, costs, settings)["report.md"]
    assert "| dora | 0.700 ± 0.200 | 8 | 50 B | 3000 ms | 1.50 |" in report and "1 sentences, 2 times" in report
    assert "by about 4.6 points" in report  # sqrt(.7 * .3 / 100)
    (row,) = table_rows(runs[:1], costs)
    assert math.isnan(row["spread"])
    assert "| dora | 0.500 | 8 |" in report_files([row], runs[:1], costs, settings)["report.md"]


def test_methods_take_turns(monkeypatch):
    order = []
    monkeypatch.setattr(module, "_stepper", lambda model, *_: lambda: order.append(_method_of(model)) or 1.0)
    splits = {name: part.select(range(10)) for name, part in reviews().items()}
    costs = costs_of(["lora", "vera", "ia3"], replace(SETTINGS, rounds=2), splits, load)
    assert order[:6] == ["lora", "vera", "ia3", "vera", "ia3", "lora"] and len(order) == 15
    assert [cost.step_seconds for cost in costs] == [[1.0, 1.0]] * 3  # the rounds to warm up are not in


def _method_of(model):
    return next(iter(adapters(model).values())).config.method


def test_every_method_has_a_recipe_and_takes_its_step():
    assert RECIPES.keys() == METHODS.keys()
    splits = {name: part.select(range(10)) for name, part in reviews().items()}
    costs = costs_of([*METHODS], replace(SETTINGS, rounds=1), splits, load)
    assert [cost.method for cost in costs] == [*METHODS] and all(cost.trained and cost.saved_bytes for cost in costs)
    by_method = {cost.method: cost for cost in costs}
    assert by_method["lora_fa"].saved_bytes < by_method["lora"].saved_bytes < by_method["dora"].saved_bytes


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
    with pytest.raises(ValueError, match="unknown method 'lorra'; there are lora"):
        prepare("lorra", load()[0], RECIPES["lora"], 10, 0)


def test_unknown_methods_on_the_command_line(capsys, tmp_path):
    assert cli.main(["bench", "methods", "--methods", "lora", "lorra", "--out", str(tmp_path)]) == 2
    assert "no method 'lorra'; there are lora, rslora" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_the_packaged_encoder_from_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WARM_UP_ROUNDS", 0)
    monkeypatch.setattr(Settings, "__init__", _small(Settings.__init__))
    line = f"bench methods --methods ia3 --seeds 5 --train 8 --test 8 --out {tmp_path}"
    assert cli.main(line.split()) == 0
    out = capsys.readouterr().out
    assert "[1/1] ia3, seed 5" in out and "| ia3 | 0." in out and "BertForSequenceClassification" in out
    assert cli.main([*line.split()[:-4], "--test", "99999", "--out", str(tmp_path)]) == 1
    assert "test: 99999 reviews asked for, there are" in capsys.readouterr().err


def _small(init):
    return lambda self, **chosen: init(self, **{"validation": 4, "rounds": 1, **chosen})
