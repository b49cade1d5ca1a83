"""`lora-course`: the course from the command line.

    doctor   is everything here that the lessons need?      fetch   models and data, once
    lab      JupyterLab on lesson 00                        build   notebooks from their sources
    table    the README's methods, measured; READING.md     bench   whole comparisons, minutes
    plan     the memory of a training step, predicted       search  hyperparameters, on many machines
    mutate   how strong the exercises' checks are           check   is my notebook right?
    grade    a folder of notebooks, for instructors         room    all of it on a stick, for a room without network
Each command is a function from parsed arguments to an exit code: 0 all well, 1 a problem was found, 2 the command
line makes no sense. What a command alone needs is imported inside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lora_course.cli import authors, benchmarks, experiments, grading, start


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. Raises SystemExit(2) for a command line that makes no sense."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        return 130  # what a shell expects of a command ended by Ctrl-C


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lora-course",
        description="Learn to fine-tune language models cheaply, in notebooks that check themselves.",
        epilog="Start with:  lora-course lab\n"
        "If something does not work:  lora-course doctor\n"
        "More on a command:  lora-course COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(run, summary: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            run.__name__, help=summary, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        added.set_defaults(run=run)
        return added

    for group in (start, authors, benchmarks, experiments, grading):
        group.register(command)
    return parser
