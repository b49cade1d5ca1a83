"""Papers are cited from one table, and from nowhere else; every one of them is read for something, in some lesson."""

import re
from pathlib import Path

import pytest

from lora_course import cli
from lora_course.teaching.gates import ARXIV
from lora_course.teaching.references import BY_ARXIV, PAPERS, reading, update_reading

ROOT = Path(__file__).parents[2]
LIARS = {"references.py", "test_gates_fire.py", "test_references.py"}  # the table; tests of ids that are not in it
SAID = re.compile(
    r"(?:(\w[\w-]*) et al\. )?\b(\d{4}),\s+(?:[^()\[\]]{0,20}?arXiv:|\[[^\]]+\]\(https://arxiv.org/abs/)(\d{4}\.\d{4,5})"
)


def ours(*patterns):
    found = [path for pattern in patterns for path in ROOT.rglob(pattern) if path.name not in LIARS]
    return [path for path in found if not path.relative_to(ROOT).parts[0].startswith(".")]


TEXTS = {path: path.read_text(encoding="utf-8") for path in ours("*.py", "*.md", "*.ipynb")}


def strangers(text):
    return sorted(set(ARXIV.findall(text)) - set(BY_ARXIV))


def test_every_paper_cited_anywhere_is_in_the_table():
    assert len(TEXTS) > 100
    found = {str(path.relative_to(ROOT)): strangers(text) for path, text in TEXTS.items()}
    assert {name: ids for name, ids in found.items() if ids} == {}
    assert strangers("arXiv:2106.09686 and https://arxiv.org/abs/2106.09685") == ["2106.09686"]


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.arxiv)
def test_its_lesson_sends_you_to_every_paper(paper):
    sources = list((ROOT / "solutions").glob(f"{paper.lesson}_*.py"))
    if not sources:
        pytest.skip(f"lesson {paper.lesson} is not here yet")
    assert paper.arxiv in ARXIV.findall(sources[0].read_text(encoding="utf-8"))


def test_who_and_when_are_what_the_table_says():
    """`Hu et al. 2021, arXiv:2106.09685` in a docstring, `Hu et al. 2021, [LoRA](link)` in a lesson."""
    wrong, seen = [], 0
    for path, text in TEXTS.items():
        for name, year, arxiv in SAID.findall(text) if path.suffix == ".py" else []:
            paper, seen = BY_ARXIV[arxiv], seen + 1
            if int(year) != paper.year or not paper.authors.startswith(name):  # name is "" where all are named
                wrong.append(f"{path.name}: {name} {year} for {paper.authors} {paper.year}, {arxiv}")
    assert wrong == [] and seen > 50


def test_reading_md_is_what_the_table_makes():
    assert update_reading(ROOT, check=True), "run `lora-course table`"
    text = (ROOT / "READING.md").read_text(encoding="utf-8")
    assert sorted(ARXIV.findall(text)) == sorted(BY_ARXIV)
    for target in re.findall(r"\]\((notebooks/[^)]+)\)", text):
        assert (ROOT / target).exists(), target
    assert "](READING.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(len(line.split(" | ")) == 3 for line in text.splitlines() if line.startswith("| "))


def test_a_stale_reading_md_is_noticed_and_put_right(tmp_path, monkeypatch, capsys):
    (tmp_path / "solutions").mkdir()
    (tmp_path / "README.md").write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["table", "--check"]) == 1
    assert "READING.md out of date: run `lora-course table`" in capsys.readouterr().err
    assert not (tmp_path / "READING.md").exists()
    assert cli.main(["table"]) == 0
    made = (tmp_path / "READING.md").read_text(encoding="utf-8")
    assert made == reading(tmp_path) and "](notebooks/" not in made  # there are none to link to
    assert cli.main(["table", "--check"]) == 0
