"""The README's table of methods is what the command makes, and says what the tests test."""

import os
from pathlib import Path

import pytest

from lora_course import cli
from lora_course.adapters import METHODS
from lora_course.adapters.lokr import split
from lora_course.adapters.oracles import ORACLES
from lora_course.experiments import method_table
from lora_course.experiments.method_table import BEGIN, END, IN, OUT, RANK, TOKENS, costs, methods_table

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    (tmp_path / "solutions").mkdir()
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    for name in ("README.md", "READING.md"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "README.md"


def test_the_table_in_the_readme_is_what_the_command_makes(clone, capsys):
    assert cli.main(["table", "--check"]) == 0, capsys.readouterr().err
    before = clone.read_text(encoding="utf-8")
    assert cli.main(["table"]) == 0 and clone.read_text(encoding="utf-8") == before
    assert BEGIN in before and "| `lora` |" in before


def test_another_number_is_noticed_and_put_right(clone, capsys):
    right = clone.read_text(encoding="utf-8")
    wrong = right.replace("15,360", "15,361", 1)
    clone.write_text(wrong, encoding="utf-8")
    assert cli.main(["table", "--check"]) == 1 and clone.read_text(encoding="utf-8") == wrong
    assert "out of date: run `lora-course table`" in capsys.readouterr().err
    assert cli.main(["table"]) == 0 and clone.read_text(encoding="utf-8") == right
    assert sorted(os.listdir(clone.parent)) == ["READING.md", "README.md", "notebooks", "solutions"]


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END} {BEGIN}", f"{BEGIN} {END} {BEGIN} {END}"])
def test_a_readme_without_a_place_for_it(clone, capsys, text):
    clone.write_text(text)
    assert cli.main(["table"]) == 1
    assert "README.md: needs the lines <!-- methods-table" in capsys.readouterr().err
    assert clone.read_text() == text


def test_every_method_has_a_row_and_an_oracle_that_its_tests_read():
    header, *rows = methods_table()
    assert [row[0] for row in rows] == [f"`{method}`" for method in METHODS] and ORACLES.keys() == METHODS.keys()
    assert {len(row) for row in rows} == {len(header)}
    for method, oracle in ORACLES.items():
        assert oracle.peft or oracle.identity
        source = (ROOT / "tests" / "adapters" / oracle.test).read_text(encoding="utf-8")
        assert f'ORACLES["{method}"]' in source or "ORACLES[method].bar" in source


def formula(method, d, k, r):
    (k1, k2), (d1, d2) = split(k), split(d)
    return eval(ORACLES[method].trained, {"d": d, "k": k, "r": r, "d1": d1, "d2": d2, "k1": k1, "k2": k2})


@pytest.mark.parametrize("method", METHODS)
def test_formulas_and_counts_agree(method):
    for d, k, r in ((IN, OUT, RANK), (60, 84, 2), (100, 48, 3)):
        assert formula(method, d, k, r) == METHODS[method].count_trainable(d, k, r)
    assert costs(method)[0] == formula(method, IN, OUT, RANK)


def test_saved_bytes_by_formula():
    """Where the floor is known: x and the r numbers a token of LoRA; those alone with A frozen; the output of W."""
    assert costs("lora")[1] == costs("pissa")[1] == 4 * TOKENS * (IN + RANK)
    assert costs("lora_fa")[1] == 4 * TOKENS * RANK
    assert costs("ia3")[1] == 4 * TOKENS * OUT


def test_words_of_a_tolerance():
    row = {row[0]: row for row in methods_table()}
    assert row["`vera`"][-1] == "bit for bit" and row["`dora`"][-1] == "2e-6 in float32"
    assert row["`dora`"][-2] == "[PEFT LoraConfig, use_dora=True](tests/adapters/test_methods_against_peft.py)"
    assert row["`loha`"][-2].startswith("[PEFT LoHaConfig, not GPT-2]")
    assert method_table.NOTE.count("BERT") == 1
