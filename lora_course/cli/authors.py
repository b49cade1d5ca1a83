"""For authors of the course: `build`, `table` and `mutate`."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from lora_course.cli.common import Command, course_folder, problem, with_sources

AUTHOR_EXTRA = ("jupytext", "nbclient", "nbformat")


def register(command: Command) -> None:
    added = command(
        build,
        "make the notebooks from their sources (for authors)",
        "Builds notebooks/NN_slug.ipynb and solutions/NN_slug.ipynb from solutions/NN_slug.py, and prints what is\n"
        "still amiss. Exits with 1 if something is. Needs the author extra: pip install -e \".[author]\"\n\n"
        "  lora-course build                             write; saved outputs are kept where code is unchanged\n"
        "  lora-course build --execute 02_the_lora_layer run this solution and save its outputs\n"
        "  lora-course build --check                     write nothing, only report",
    )
    how = added.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="write nothing; report what a build would change")
    how.add_argument("--execute", nargs="+", metavar="SLUG", help="run these solutions; or: stale, or: all")
    added = command(
        table,
        "write the README's table of methods, measured, and READING.md (for authors)",
        "Counts and measures every method on one layer, adds the oracle and tolerance that the tests use, and puts\n"
        "the table between its markers in README.md. Writes READING.md, the table of papers. Seconds.",
    )
    added.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a table would change")
    added = command(
        mutate,
        "measure how many small mistakes the checks reject (for authors)",
        "Changes every solution in one place at a time and hands each of these mutants to its exercise's check, in a\n"
        "process of its own. Judges the exercises whose solution or check has changed since last time, writes\n"
        "solutions/checks.json and solutions/CHECKS.md, and exits with 1 if less than 95 % are rejected or one is\n"
        "accepted for which checks.json does not say why. Some minutes for all lessons.\n\n"
        "  lora-course mutate\n"
        "  lora-course mutate --lesson 02 --json /tmp/02.json",
    )
    added.add_argument("--lesson", metavar="NN", help="this lesson alone, changed or not")
    added.add_argument("--json", type=Path, metavar="FILE", help="write what each check said to each mutant there")


def build(arguments: argparse.Namespace) -> int:
    root = course_folder(Path("solutions"))
    if root is None:
        return problem("no solutions/ here or beside the package: run this command in a clone of the repository.")
    try:
        from lora_course.teaching import authoring
        from lora_course.teaching.source import SourceError
    except ModuleNotFoundError as error:
        if error.name not in AUTHOR_EXTRA:
            raise
        return problem(f'{error.name} is not installed. Authors need: pip install -c constraints.txt -e ".[author]"')
    chosen = arguments.execute
    execute = chosen[0] if chosen in (["all"], ["stale"]) else chosen
    try:
        problems = authoring.build(root, check=arguments.check, execute=execute)
    except SourceError as error:
        return problem(str(error))
    except ValueError as error:  # a slug that does not exist
        return problem(str(error), code=2)
    print(*problems, sep="\n", end="\n" if problems else "")
    print(f"{len(problems)} to put right." if problems else "Every notebook is what its source builds.")
    return 1 if problems else 0


def table(arguments: argparse.Namespace) -> int:
    from lora_course.experiments import method_table
    from lora_course.teaching.references import update_reading

    def run(root: Path) -> int:
        try:
            same = {
                "README.md": method_table.update(root / "README.md", check=arguments.check),
                "READING.md": update_reading(root, check=arguments.check),
            }
        except ValueError as error:
            return problem(str(error))
        changed = [name for name, unchanged in same.items() if not unchanged]
        if not changed:
            print("The tables in README.md and READING.md are what the methods and references make.")
        elif arguments.check:
            return problem(f"{' and '.join(changed)} out of date: run `lora-course table`")
        else:
            print(f"{' and '.join(changed)} brought up to date.")
        return 0

    return with_sources(run)


def mutate(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from lora_course.atomic import write_files
    from lora_course.teaching.mutation import record
    from lora_course.teaching.mutation.measure import measure

    def run(root: Path) -> int:
        try:
            found, judged = measure(root, arguments.lesson, say=partial(print, flush=True))
        except ValueError as error:
            return problem(str(error), code=2)
        except RuntimeError as error:
            return problem(str(error))
        if arguments.json:
            text = json.dumps([asdict(one) for one in judged], indent=1, ensure_ascii=False) + "\n"
            write_files({arguments.json: text})
        problems = record.problems(root, found)
        print(*problems, sep="\n", end="\n" if problems else "")
        print(f"{record.share(found):.1%} of all mutants are rejected. Written to {record.PAGE}.")
        return 1 if problems else 0

    return with_sources(run)
