"""One table, three ways to show it: as plain text, as HTML in a notebook, as Markdown in a file.

A table is a list of rows of strings, all as long as the first, which is the header.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Table = Sequence[Sequence[str]]


def text_table(table: Table) -> str:
    """Columns of even width: the first flush left, the others, numbers mostly, flush right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)])
        for row in table
    ]
    return "\n".join(line.rstrip() for line in lines)


def html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def markdown_table(table: Table) -> str:
    lines = [list(table[0]), ["---"] * len(table[0]), *table[1:]]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in lines)


def in_units(size: int) -> str:
    """Bytes in the unit that leaves a readable number, e.g. 520.0 KiB."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(size) >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size} B"


def put_between(text: str, begin: str, end: str, made: str) -> str:
    """`text` with `made` in place of what is between two lines. Raises ValueError unless both are there once."""
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < text.index(begin):
        raise ValueError(f"needs the lines {begin} and {end}, each once and in this order")
    return f"{text[: text.index(begin)]}{begin}\n{made.strip()}\n{text[text.index(end) :]}"


def without_nan(value: Any) -> Any:
    """What JSON can hold: dicts and lists all the way down, None for NaN and infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: without_nan(part) for key, part in value.items()}
    return [without_nan(part) for part in value] if isinstance(value, list | tuple) else value
