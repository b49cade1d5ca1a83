"""CONTRIBUTING's table of topics: all 21 are there, and so are the lessons and modules that it names."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) ([^|]+) \| ([\d, ]+) \| (.+) \|$", TEXT, re.MULTILINE)
LESSONS = {path.name[:2] for path in (ROOT / "solutions").glob("[0-9]*.py")}


def test_every_topic_has_its_row():
    assert [int(number) for number, *_ in ROWS] == list(range(1, 22))


def test_the_modules_are_there():
    for number, topic, _, modules in ROWS:
        named = re.findall(r"`([^`]+)`", modules)
        assert named and all((ROOT / "lora_course" / name).is_file() for name in named), f"{number} {topic}: {named}"


def test_the_lessons_are_there():
    named = {lesson for _, _, lessons, _ in ROWS for lesson in lessons.split(", ")}
    assert named <= LESSONS
    beyond = set(re.findall(r"Lesson (\d\d) goes beyond", TEXT))
    assert LESSONS - named == beyond
