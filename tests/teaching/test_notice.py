import io
import re
import sys

import pytest

from lora_course.teaching.notice import BORDER, Notice, show

LINES = (("Property", "a < b & c"), ("Yours", "first\nsecond"))


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("outcome", BORDER)
@pytest.mark.parametrize("background", ["#ffffff", "#111111"])
def test_the_border_stands_out_in_both_themes(outcome, background):
    low, high = sorted([luminance(BORDER[outcome]), luminance(background)])
    assert (high + 0.05) / (low + 0.05) >= 3


def test_text_is_aligned_and_says_how_it_goes_on():
    assert Notice("wrong", "Exercise 02.1 · Count", LINES).text().splitlines()[:4] == [
        "✗ Exercise 02.1 · Count: not right yet",
        "  Property: a < b & c",
        "  Yours:    first",
        "            second",
    ]


@pytest.mark.parametrize("outcome", BORDER)
def test_every_outcome_says_how_the_notebook_goes_on(outcome):
    assert "the notebook goes on with" in Notice(outcome, "t", ()).text().lower()


def test_html_escapes_and_sets_no_text_colour():
    shown = Notice("wrong", "<b>", LINES).html()
    assert 'role="status"' in shown and "✗" in shown
    assert "a &lt; b &amp; c" in shown and "&lt;b&gt;" in shown and "<b>" not in shown
    assert not re.search(r"[;\"](color|background)", shown)
    assert shown.count("<div") == shown.count("</div>") and shown.count("<span") == shown.count("</span>")


def test_a_console_of_few_characters_gets_question_marks(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", console)
    show(Notice("right", "Exercise 02.1", ()))
    console.flush()
    assert console.buffer.getvalue().startswith(b"? Exercise 02.1: right\n")
