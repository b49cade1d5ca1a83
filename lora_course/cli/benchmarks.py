"""`bench`: long comparisons, and BENCHMARKS.md."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lora_course.cli.common import Command, problem, whole

BENCHMARKS = "# Benchmarks\n\nMeasured by `lora-course bench`; each section says where and how.\n"


def register(command: Command) -> None:
    added = command(
        bench,
        "long comparisons: all methods on one task; known claims; adapter overhead beside PEFT's",
        "  lora-course bench methods      accuracy, cost and times of every method (some twenty minutes)\n"
        "  lora-course bench claims       what is said of LoRA, asked again in small (some thirty minutes)\n"
        "  lora-course bench overhead     what adapters add to a step, ours beside PEFT's (some thirty minutes)",
    )
    kinds = added.add_subparsers(dest="what", required=True, metavar="WHAT")
    kind = partial(kinds.add_parser, formatter_class=argparse.RawDescriptionHelpFormatter)
    added = kind(
        "methods",
        help="every method on the same fine-tuning task",
        description="Every method fine-tunes the packaged encoder on the same Rotten Tomatoes sentences, with several\n"
        "seeds. Writes results.csv, results.json, report.md and frontier.png. Ctrl-C loses what was being done and\n"
        "nothing else: the same command goes on.\n\n"
        "  lora-course bench methods\n"
        "  lora-course bench methods --methods lora dora --seeds 0 1 --train 500 --out /tmp/two\n"
        "  lora-course bench methods --methods lora --ranks 2 8 32 --targets attention mlp --rates 1e-3 3e-3",
    )
    added.add_argument("--methods", nargs="+", metavar="NAME", help="only these; by default all")
    added.add_argument("--ranks", nargs="+", type=whole, default=[], metavar="N", help="each method with each of them")
    added.add_argument("--targets", nargs="+", default=[], metavar="NAME", help="all, attention, query-value, mlp")
    added.add_argument("--rates", nargs="+", type=float, default=[], metavar="LR", help="learning rates")
    _bench_arguments(added, Path("benchmark"), train=1000)
    added = kind(
        "claims",
        help="what is said of LoRA, asked again in small",
        description="Learning rates of LoRA and of full fine-tuning, attention against MLP, LoRA+'s ratio, the rank:\n"
        "short runs of the packaged encoder with several seeds, and a verdict on each claim. Writes claims.md and a\n"
        "figure for each, and what `bench methods` writes. Ctrl-C loses the run in progress and no other.",
    )
    _bench_arguments(added, Path("benchmark-claims"), train=640)
    added = kind(
        "overhead",
        help="what adapters add to a training step, ours beside PEFT's",
        description="Time and bytes of a training step with LoRA, LoRA-FA, DoRA and VeRA on three layers, the\n"
        "packaged encoder and the packaged language model, beside PEFT's and the frozen model's. Leave the machine\n"
        "alone meanwhile. Writes its section of BENCHMARKS.md.",
    )
    added.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file too")
    added.add_argument("--rounds", type=whole, default=15, metavar="N", help="steps of each model, by default 15")
    added.add_argument("--out", type=Path, default=Path("BENCHMARKS.md"), metavar="FILE", help="the report's file")


def _bench_arguments(parser: argparse.ArgumentParser, out: Path, train: int) -> None:
    parser.add_argument("--seeds", nargs="+", type=whole, default=[0, 1, 2], metavar="N", help="by default 0 1 2")
    parser.add_argument(
        "--train", type=whole, default=train, metavar="N", help=f"sentences to train on, by default {train}"
    )
    parser.add_argument("--test", type=whole, default=800, metavar="N", help="to judge on, by default 800")
    parser.add_argument("--out", type=Path, default=out, help=f"folder, by default ./{out}")
    parser.add_argument("--benchmarks", type=Path, metavar="FILE", help="put the report into this file too")


def bench(arguments: argparse.Namespace) -> int:
    kinds = {"methods": bench_methods, "claims": bench_claims, "overhead": bench_overhead}
    return kinds[arguments.what](arguments)


def bench_methods(arguments: argparse.Namespace) -> int:
    from lora_course.experiments.benchmark_report import FIGURE
    from lora_course.experiments.recipes import RECIPES, grid

    methods = list(dict.fromkeys(arguments.methods or RECIPES))
    try:
        chosen = grid(methods, arguments.ranks, arguments.targets, arguments.rates)
    except ValueError as error:
        return problem(str(error), code=2)
    return _run_benchmark(arguments, chosen, "methods", lambda: ("report.md", [FIGURE]))


def bench_claims(arguments: argparse.Namespace) -> int:
    from lora_course.experiments.claims import all_configurations, write_report

    return _run_benchmark(arguments, all_configurations(), "claims", lambda: write_report(arguments.out))


def bench_overhead(arguments: argparse.Namespace) -> int:
    from importlib.metadata import version

    import torch

    from lora_course.assets import AssetError
    from lora_course.atomic import write_files
    from lora_course.device import describe_device
    from lora_course.experiments import overhead
    from lora_course.products import processor_name

    busy = f", load average {os.getloadavg()[0]:.1f} before it began" if hasattr(os, "getloadavg") else ""
    try:
        rows = overhead.measure_overhead(arguments.rounds)
    except AssetError as error:
        return problem(str(error))
    versions = f"torch {torch.__version__}, PEFT {version('peft')}"
    machine = f"{describe_device(torch.device('cpu'))}, {processor_name()}, {versions}{busy}"
    text = overhead.report(rows, machine)
    print(text)
    try:
        if arguments.json:
            numbers = json.dumps(overhead.as_json(rows), indent=1)
            write_files({arguments.json: numbers})
        _into_benchmarks(arguments.out, "overhead", text)
    except (OSError, ValueError) as error:
        return problem(str(error))
    print(f"Written to {arguments.out}{f' and {arguments.json}' if arguments.json else ''}.")
    return 0


def _run_benchmark(arguments, configurations, name: str, write: Callable[[], tuple[str, list[str]]]) -> int:
    """write() -> the report's name and those of its figures, in arguments.out."""
    from lora_course.assets import AssetError
    from lora_course.experiments.benchmark import Settings, benchmark, load_histories
    from lora_course.experiments.measured import save_measured

    settings = Settings(train=arguments.train, test=arguments.test)
    try:
        benchmark(arguments.out, configurations, list(dict.fromkeys(arguments.seeds)), settings)
        text, figures = write()
        report = (arguments.out / text).read_text(encoding="utf-8")
        print(report)
        if arguments.benchmarks:
            _publish(arguments.out, report, figures, arguments.benchmarks, name)
            save_measured(name, load_histories(arguments.out))
    except (AssetError, OSError, ValueError) as error:
        return problem(str(error))
    print(f"Written to {arguments.out}: {text}, results.csv, results.json, figures, and runs/ with every history.")
    return 0


def _publish(out: Path, report: str, figures: Sequence[str], benchmarks: Path, name: str) -> None:
    """Put a report into the file of benchmarks, one level down, and its figures into figures/ beside that file."""
    from lora_course.atomic import write_files

    folder = benchmarks.parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        write_files({folder / f"{name}_{figure}": (out / figure).read_bytes()})
        report = report.replace(f"]({figure})", f"](figures/{name}_{figure})")
    _into_benchmarks(benchmarks, name, re.sub(r"^#", "##", report, flags=re.MULTILINE))


def _into_benchmarks(path: Path, name: str, made: str) -> None:
    """Put one section into the file of benchmarks; the others stay."""
    from lora_course.atomic import write_files
    from lora_course.tables import put_between

    old = path.read_text(encoding="utf-8") if path.exists() else BENCHMARKS
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = put_between(old if begin in old else f"{old.rstrip()}\n\n{begin}\n{end}\n", begin, end, made)
    write_files({path: text})
