"""The workshop guide says of lessons what README and the lessons themselves say, and its clock adds up."""

import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "solutions" / "WORKSHOP.md").read_text(encoding="utf-8")
LESSONS = {
    slug: (title, minutes, run)
    for title, slug, minutes, run in re.findall(
        r"^\| \[(.+)\]\(notebooks/(.+)\.ipynb\) \| .+ \| (\d+ min) \| ([\d.]+ min) \|",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
}
AGENDA = re.findall(r"^\| (\d\d:\d\d) \| (.+) \| (?:(\d+) min)? ?\| ?(.*?) ?\|$", GUIDE, re.MULTILINE)


def test_lessons_take_what_the_readme_says():
    seen = []
    for _, what, minutes, run in AGENDA:
        if linked := re.match(r"\[(.+)\]\(\.\./notebooks/(.+)\.ipynb\)", what):
            title, slug = linked.groups()
            assert LESSONS[slug] == (title, f"{minutes} min", run), slug
            seen.append(slug)
        else:
            assert not run
    assert len(seen) == 3 + 5 + 3


def test_the_clock_adds_up():
    agendas = GUIDE.count("| End | | |")
    assert agendas == 3
    for (start, what, minutes, _), (after, *_) in zip(AGENDA, AGENDA[1:], strict=False):
        if what != "End":
            ends = datetime.strptime(start, "%H:%M") + timedelta(minutes=int(minutes))
            assert ends == datetime.strptime(after, "%H:%M"), (start, what)


def test_every_lesson_has_its_bug_lab_in_the_table():
    listed = dict(re.findall(r"^\| (\d\d) \| .+ \| (.+) \|$", GUIDE, re.MULTILINE))
    labs = {}
    for path in sorted((ROOT / "solutions").glob("[0-9]*.py")):
        labs[path.stem[:2]] = re.search(r"^# ## Bug lab · (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert listed == labs


def test_questions_are_answered_and_links_lead_somewhere():
    questions = re.findall(r"^(\d)\. \*\*(.+\?(?: .+)?)\*\* \S", GUIDE, re.MULTILINE)
    assert [number for number, _ in questions] == list("12345678")
    for target in re.findall(r"\]\(([^)#]+)\)", GUIDE):
        assert (ROOT / "solutions" / target).exists(), target


@pytest.mark.parametrize("command", re.findall(r"lora-course (\w+)", GUIDE))
def test_its_commands_exist(command):
    from lora_course.cli import make_parser

    with pytest.raises(SystemExit) as stopped:
        make_parser().parse_args([command, "--help"])
    assert stopped.value.code == 0
