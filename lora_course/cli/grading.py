"""Is it right? `check` for one notebook, `grade` for a folder of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lora_course.cli.common import Command, problem, whole, with_sources


def register(command: Command) -> None:
    added = command(
        check,
        "say which exercises of a notebook are right",
        "Runs the exercises of a notebook, and nothing else of it, and says for each whether it is right, wrong (and\n"
        "what is wrong) or unsolved. Seconds. Exits with 0 if all that is solved is right.\n\n"
        "  lora-course check notebooks/02_the_lora_layer.ipynb",
    )
    added.add_argument("notebook", type=Path)
    added.add_argument("--seconds", type=whole, default=120, metavar="N", help="for one exercise, by default 120")
    added = command(
        grade,
        "grade a folder of notebooks (for instructors)",
        "Takes the exercise cells of every .ipynb under SUBMISSIONS, puts them into the lesson as its source builds\n"
        "it, and judges them, each in a process of its own under limits. Writes grades.csv, grades.xml (JUnit) and\n"
        "HTML pages. The same command again grades only what is new. What is prevented and what is not is said in\n"
        "solutions/GRADING.md.\n\n"
        "  lora-course grade submissions/ --out report/ --jobs 4",
    )
    added.add_argument("submissions", type=Path, help="alice/02_the_lora_layer.ipynb, bob/..., or files side by side")
    added.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the report goes")
    added.add_argument("--jobs", type=whole, default=1, metavar="N", help="at once, by default 1; 1 GiB each")
    added.add_argument("--seconds", type=whole, default=60, metavar="N", help="for one exercise, by default 60")
    added.add_argument("--memory", type=whole, default=4096, metavar="MIB", help="for one exercise, by default 4096")


def check(arguments: argparse.Namespace) -> int:
    from lora_course.teaching.grading.learner import check_notebook

    return with_sources(lambda root: check_notebook(root, arguments.notebook, arguments.seconds))


def grade(arguments: argparse.Namespace) -> int:
    from lora_course.teaching.grading.grade import Limits, grade_folder, in_words
    from lora_course.teaching.grading.report import write_reports

    if not arguments.submissions.is_dir():
        return problem(f"{arguments.submissions} is not a folder", code=2)
    if not (arguments.seconds and arguments.memory and arguments.jobs):
        return problem("--seconds, --memory and --jobs are 1 or more", code=2)

    def run(root: Path) -> int:
        limits = Limits(seconds=arguments.seconds, memory=arguments.memory)
        graded = grade_folder(root, arguments.submissions, arguments.out, arguments.jobs, limits, say=print)
        write_reports(graded, arguments.out)
        for note in graded.notes:
            print(note, file=sys.stderr)
        print(f"{in_words(graded.rows) or 'no notebook found'}. Written to {arguments.out}: grades.csv, index.html.")
        return 0 if graded.rows else 1

    return with_sources(run)
