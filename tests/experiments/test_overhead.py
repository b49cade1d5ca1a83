"""The rows of `bench overhead`: honest bytes, the three models alike, and a report that says what it shows."""

import json

import pytest
import torch
from torch import nn

from lora_course import cli
from lora_course.adapters.config import AdapterConfig
from lora_course.experiments import overhead
from lora_course.experiments.overhead import Subject, compare, floor_model, saved_bytes

N, D, K, R = 40, 16, 24, 4


class Pair(nn.Module):
    """Two layers that share x, and one that does not."""

    def __init__(self):
        super().__init__()
        self.q, self.v, self.out = nn.Linear(D, K), nn.Linear(D, K), nn.Linear(K, D)

    def forward(self, x):
        return self.out(self.q(x) + self.v(x)).sum()


def subject():
    x = torch.randn(N, D, requires_grad=True)
    return Subject("small", Pair, lambda model: model(x), ["q", "v", "out"])


@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize("method", ["lora", "lora_fa", "dora", "vera"])
def test_the_floor_is_the_formula(method, p):
    torch.manual_seed(0)
    one = subject()
    found = saved_bytes(floor_model(one.make(), AdapterConfig(method, R, 16, one.targets, p)), one.loss)
    entries = N * D + N * K  # x of q and v once, and that of out
    keeps_x = method in ("lora", "dora")
    stretched = N * K + N * K + N * D if method == "dora" else 0
    assert found == 4 * (3 * N * R + entries * keeps_x + stretched) + entries * (p > 0)


@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize("method", ["lora", "lora_fa", "dora", "vera"])
def test_ours_keeps_what_the_floor_keeps(method, p):
    torch.manual_seed(0)
    row = compare(subject(), method, R, p, rounds=1)
    norms = 4 * (K + K + D) if method == "dora" else 0  # ||V||
    assert row.saved_bytes_ours == row.saved_bytes_floor + norms
    assert row.saved_bytes_ours < row.saved_bytes_peft or (p == 0 and method in ("lora", "lora_fa"))
    assert row.frozen_seconds > 0 and row.overhead_ours > -1 and row.overhead_peft > -1


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(overhead, "subjects", lambda: iter([subject()]))
    monkeypatch.setattr(overhead, "CASES", [("lora", 2), ("vera", 8)])
    files = tmp_path / "rows.json", tmp_path / "report.md"
    assert cli.main(["bench", "overhead", "--rounds", "2", "--json", str(files[0]), "--out", str(files[1])]) == 0
    rows = json.loads(files[0].read_text())
    wanted = {"model", "method", "dropout", "overhead_ours", "overhead_peft"}
    wanted |= {"saved_bytes_ours", "saved_bytes_peft", "saved_bytes_floor"}
    assert len(rows) == 4 and all(wanted <= row.keys() for row in rows)
    text = files[1].read_text()
    assert text.startswith("# Benchmarks") and "### small" in text
    assert text.count("| `lora` |") == 2 and "2 rounds" in text
    made = text.partition("<!-- overhead -->")[2].partition("<!-- /overhead -->")[0].strip()
    assert made in capsys.readouterr().out
    files[1].write_text(text + "\nAnother section.\n")
    assert cli.main(["bench", "overhead", "--rounds", "1", "--out", str(files[1])]) == 0
    again = files[1].read_text()
    assert again.count("### small") == 1 and "1 rounds" in again and again.endswith("Another section.\n")
