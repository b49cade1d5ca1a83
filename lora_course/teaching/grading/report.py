"""The results of a class on paper: grades.csv, grades.xml (JUnit), index.html, and a page for each learner.

Names and messages come from learners. In the pages they are escaped text, in the XML they lose the characters that XML
has not, and in the table a spreadsheet cannot take them for formulas. The pages have no scripts, and say in words what
they show in colour.
"""

from __future__ import annotations

import csv
import html
import io
import re
import xml.etree.ElementTree as ET
from itertools import groupby
from pathlib import Path

from lora_course.atomic import write_files
from lora_course.teaching.grading.grade import RESULTS, Class, Row, in_words, safe_name
from lora_course.teaching.notice import SYMBOL

STYLE = """body{font:1em/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;
padding:0 1em;color:#1b1b1b;background:#fff}
table{border-collapse:collapse;width:100%}th,td{border:1px solid #767676;padding:.3em .6em;text-align:left;
vertical-align:top}td{overflow-wrap:anywhere}caption{text-align:left;padding:.5em 0}thead th{background:#f0f0f0}
a{color:#0b57a4}"""
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_reports(graded: Class, out: Path) -> None:
    """Writes all of them, each whole or not at all. Raises OSError where that is not possible."""
    (out / "learners").mkdir(parents=True, exist_ok=True)
    files = {
        out / "grades.csv": grades_csv(graded.rows),
        out / "grades.xml": junit_xml(graded.rows),
        out / "index.html": class_page(graded),
    }
    for learner, rows in by_learner(graded.rows).items():
        files[out / "learners" / f"{safe_name(learner)}.html"] = learner_page(learner, rows)
    write_files(files)


def by_learner(rows: tuple[Row, ...]) -> dict[str, list[Row]]:
    """The learner is the first folder of a submission's name."""
    ordered = sorted(rows, key=lambda row: row.submission.split("/")[0])
    return {name: list(group) for name, group in groupby(ordered, key=lambda row: row.submission.split("/")[0])}


def grades_csv(rows: tuple[Row, ...]) -> str:
    """submission, exercise, result, message; one line for each exercise."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(("submission", "exercise", "result", "message"))
    for row in rows:
        table.writerow([_no_formula(row.submission), row.exercise, row.result, _no_formula(row.message)])
    return text.getvalue()


def junit_xml(rows: tuple[Row, ...]) -> str:
    """A test suite for each submission: wrong is a failure, error an error, unsolved skipped."""
    root = ET.Element("testsuites", name="lora-course grade")
    kinds = {"wrong": "failure", "error": "error", "unsolved": "skipped"}
    for submission, group in groupby(rows, key=lambda row: row.submission):
        cases = list(group)
        counts = {kind: str(sum(kinds.get(c.result) == kind for c in cases)) for kind in kinds.values()}
        suite = ET.SubElement(
            root, "testsuite", name=_xml(submission), tests=str(len(cases)),
            failures=counts["failure"], errors=counts["error"], skipped=counts["skipped"],
        )  # fmt: skip
        for case in cases:
            node = ET.SubElement(suite, "testcase", classname=_xml(submission), name=case.exercise)
            if case.result in kinds:
                ET.SubElement(node, kinds[case.result], message=_xml(case.message))
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def class_page(graded: Class) -> str:
    """Everybody's counts, and what this machine could not prevent."""
    learners = by_learner(graded.rows)
    head = "".join(f'<th scope="col">{result}</th>' for result in ("learner", *RESULTS))
    lines = []
    for learner, rows in learners.items():
        counts = "".join(f"<td>{sum(row.result == result for row in rows)}</td>" for result in RESULTS)
        link = f'<a href="learners/{safe_name(learner)}.html">{_text(learner)}</a>'
        lines.append(f'<tr><th scope="row">{link}</th>{counts}</tr>')
    notes = "".join(f"<p><strong>Note.</strong> {_text(note)}</p>" for note in graded.notes)
    caption = f"{len(learners)} learners; exercises: {in_words(graded.rows) or 'none'}"
    table = f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return _page("Grades", f"{notes}{table}")


def learner_page(learner: str, rows: list[Row]) -> str:
    """Each exercise, what came out and why."""
    parts = []
    for submission, group in groupby(rows, key=lambda row: row.submission):
        lines = "".join(
            f'<tr><th scope="row">{_text(row.exercise)}</th><td>{SYMBOL.get(row.result, "!")} {row.result}</td>'
            f"<td>{_text(row.message)}</td></tr>"
            for row in group
        )
        head = "".join(f'<th scope="col">{name}</th>' for name in ("exercise", "result", "message"))
        parts.append(
            f"<table><caption>{_text(submission)}</caption><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
        )
    return _page(f"{learner}: {in_words(rows)}", "".join(parts) + '<p><a href="../index.html">The whole class</a></p>')


def _page(title: str, body: str) -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main><h1>{_text(title)}</h1>{body}</main></body></html>\n"
    )


def _text(text: str) -> str:
    return html.escape(_xml(text))


def _xml(text: str) -> str:
    return NOT_XML.sub("\ufffd", text)


def _no_formula(text: str) -> str:
    """A cell that a spreadsheet would compute starts with an apostrophe."""
    text = _xml(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
