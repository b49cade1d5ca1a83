"""One table shown three ways."""

import pytest

from lora_course.tables import html_table, in_units, markdown_table, text_table

TABLE = [["part", "bytes"], ["a|b <c>", "7"], ["d", "1,000"]]


def test_three_ways():
    assert text_table(TABLE) == "part     bytes\na|b <c>      7\nd        1,000"
    assert markdown_table(TABLE) == "| part | bytes |\n| --- | --- |\n| a\\|b <c> | 7 |\n| d | 1,000 |"
    assert html_table(TABLE).count("<tr>") == 3 and "<td>a|b &lt;c&gt;</td>" in html_table(TABLE)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 19, "1.5 MiB"), (5000 << 30, "5,000.0 GiB")],
)
def test_units(size, text):
    assert in_units(size) == text
