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
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

START = Path("notebooks") / "00_start.ipynb"
LOADERS = {"encoder": "load_encoder(", "causal_lm": "load_causal_lm(", "reviews": "load_reviews("}
BENCHMARKS = "# Benchmarks\n\nMeasured by `lora-course bench`; each section says where and how.\n"
AUTHOR_EXTRA = ("jupytext", "nbclient", "nbformat")
DTYPES = ("float32", "bfloat16", "float16")
JUPYTER_SETTINGS = Path(__file__).resolve().parent / "jupyter"


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

    command(
        doctor,
        "check that this machine has what the lessons need",
        "Checks Python, torch and its device, memory, disk, the notebooks' kernel, models and data, and the installed\n"
        "versions. Every line starts with [ok], [warn] (the lessons run, but read it) or [fail] (they will not).\n"
        "Exits with 1 if there is a [fail].",
    )
    added = command(
        fetch,
        "download the models and data that the lessons use (once)",
        "Downloads what is not in the cache yet, checks it against pinned hashes and prepares it. Safe to interrupt\n"
        "and to repeat. LORA_COURSE_CACHE chooses the folder:\n\n"
        "  LORA_COURSE_CACHE=/big/disk/lora lora-course fetch\n"
        "  lora-course fetch --from /media/stick/assets     copy them, without a network",
    )
    added.add_argument("--from", dest="source", type=Path, metavar="FOLDER", help="a cache folder to copy from")
    added = command(
        room,
        "make a folder from which others install the course without a network (for instructors)",
        "Collects in FOLDER all that a workshop needs, for USB sticks or a share: the packages as wheels, models and\n"
        "data, the notebooks, and install.py, which sets a machine up from it. For machines like this one: the same\n"
        "system, processor and Python. Some gigabytes with a CUDA build of torch, about one without.\n\n"
        "  lora-course room /media/stick/lora_course",
    )
    added.add_argument("folder", type=Path, help="a new folder; it appears when it is complete")
    added = command(
        lab,
        "fetch what is missing and open the course in JupyterLab",
        "Opens lesson 00 in JupyterLab, on this machine only. Ctrl-C here stops it.\n\n"
        "  lora-course lab\n"
        "  lora-course lab --no-browser --port 8899      on a server, seen through `ssh -L 8899:localhost:8899`",
    )
    added.add_argument("--no-browser", action="store_true", help="print the address instead of opening a browser")
    added.add_argument("--port", type=_port, metavar="N", help="this port or none (else 8888 or the next free one)")
    added.add_argument("--skip-fetch", action="store_true", help="download nothing first")
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
        bench,
        "long comparisons: all methods on one task; known claims; adapter overhead beside PEFT's",
        "  lora-course bench methods      accuracy, cost and times of every method (some twenty minutes)\n"
        "  lora-course bench claims       what is said of LoRA, asked again in small (some twenty minutes)\n"
        "  lora-course bench overhead     what adapters add to a step, ours beside PEFT's (some ten minutes)",
    )
    kinds = added.add_subparsers(dest="what", required=True, metavar="WHAT")
    added = kinds.add_parser(
        "methods",
        help="every method on the same fine-tuning task",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Every method fine-tunes the packaged encoder on the same Rotten Tomatoes sentences, with several\n"
        "seeds. Writes results.csv, results.json, report.md and frontier.png. Ctrl-C loses what was being done and\n"
        "nothing else: the same command goes on.\n\n"
        "  lora-course bench methods\n"
        "  lora-course bench methods --methods lora dora --seeds 0 1 --train 500 --out /tmp/two\n"
        "  lora-course bench methods --methods lora --ranks 2 8 32 --targets attention mlp --rates 1e-3 3e-3",
    )
    added.add_argument("--methods", nargs="+", metavar="NAME", help="only these; by default all")
    added.add_argument("--ranks", nargs="+", type=_whole, default=[], metavar="N", help="each method with each of them")
    added.add_argument("--targets", nargs="+", default=[], metavar="NAME", help="all, attention, query-value, mlp")
    added.add_argument("--rates", nargs="+", type=float, default=[], metavar="LR", help="learning rates")
    _bench_arguments(added, Path("benchmark"), train=1000)
    added = kinds.add_parser(
        "claims",
        help="what is said of LoRA, asked again in small",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Learning rates of LoRA and of full fine-tuning, attention against MLP, LoRA+'s ratio, the rank:\n"
        "short runs of the packaged encoder with several seeds, and a verdict on each claim. Writes claims.md and a\n"
        "figure for each, and what `bench methods` writes. Ctrl-C loses the run in progress and no other.",
    )
    _bench_arguments(added, Path("benchmark-claims"), train=640)
    added = kinds.add_parser(
        "overhead",
        help="what adapters add to a training step, ours beside PEFT's",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Time and bytes of a training step with LoRA, LoRA-FA, DoRA and VeRA on three layers, the\n"
        "packaged encoder and the packaged language model, beside PEFT's and the frozen model's. Leave the machine\n"
        "alone meanwhile. Writes its section of BENCHMARKS.md.",
    )
    added.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file too")
    added.add_argument("--rounds", type=_whole, default=15, metavar="N", help="steps of each model, by default 15")
    added.add_argument("--out", type=Path, default=Path("BENCHMARKS.md"), metavar="FILE", help="the report's file")
    added = command(
        plan,
        "predict the memory of a training step without allocating it",
        "Runs the model's own code on tensors without contents, and counts bytes. Seconds, for any size.\n\n"
        "  lora-course plan --model llama-3-8b --method lora --rank 16 --dtype bfloat16 --sequence 1024\n"
        "  lora-course plan --model llama-65b --rank 64 --dtype bfloat16 --adapter-dtype float32 --sequence 512 \\\n"
        "      --checkpointing --quantization nf4-double",
    )
    added.add_argument("--model", required=True, metavar="NAME", help="any other name lists those there are")
    added.add_argument("--method", default="lora", metavar="NAME", help="an adapter, or full (by default lora)")
    added.add_argument("--rank", type=_whole, default=8, metavar="N", help="by default 8")
    added.add_argument("--targets", nargs="+", metavar="NAME", help="name suffixes; by default all linear layers")
    added.add_argument("--dropout", type=float, default=0.0, metavar="P", help="of the adapters, by default 0")
    added.add_argument("--batch", type=_whole, default=1, metavar="N", help="examples, by default 1")
    added.add_argument("--sequence", type=_whole, default=128, metavar="N", help="tokens of each, by default 128")
    added.add_argument("--dtype", choices=DTYPES, default="float32", help="of weights and activations")
    added.add_argument("--adapter-dtype", choices=DTYPES, help="of the adapters, by default --dtype")
    added.add_argument("--optimizer", default="adamw", metavar="NAME", help="adamw, lora_plus, lora_fa or sgd")
    added.add_argument("--checkpointing", action="store_true", help="compute every block again in the backward pass")
    added.add_argument("--quantization", metavar="NAME", help="nf4 or nf4-double, of the frozen linear layers")
    added.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    added = command(
        search,
        "search for hyperparameters, on one machine or on many",
        "Tries learning rates, ranks, scales, layers, methods and schedules on the packaged encoder, until the study\n"
        "has so many trials. Ctrl-C or a kill loses the trial in progress, whose choices are queued again: the same\n"
        "command goes on. A second machine joins with the same --storage; the study tells it everything else.\n\n"
        "  lora-course search --trials 20\n"
        "  lora-course search --storage postgresql+psycopg://me:secret@host/db --trials 200\n\n"
        "--storage is a SQLite file (search.db), a journal file (search.journal; for a folder shared over a network),\n"
        "or the URL of a database. The options from --train on make a study, and are refused if it is another one.",
    )
    added.add_argument("--trials", type=_whole, default=20, metavar="N", help="in all, by default 20")
    added.add_argument("--storage", default="search.db", metavar="WHERE", help="by default search.db")
    added.add_argument("--name", default="search", help="of the study, by default search")
    added.add_argument("--out", type=Path, metavar="FOLDER", help="results, pictures, and this machine's histories")
    added.add_argument("--json", type=Path, metavar="FILE", help="write plan, trials and importances there")
    added.add_argument(
        "--requeue-running", action="store_true", help="nobody else is at work: queue what seems to run, at once"
    )
    for name, text in (("train", "640"), ("validation", "200"), ("epochs", "1"), ("batch_size", "16"), ("seed", "0")):
        added.add_argument(f"--{name.replace('_', '-')}", type=_whole, metavar="N", help=f"by default {text}")
    for name, text in (("model", "packaged"), ("data", "rotten_tomatoes"), ("metric", "loss; or accuracy, f1"),
                       ("sampler", "tpe; or random"), ("pruner", "median; or halving, none")):  # fmt: skip
        added.add_argument(f"--{name}", metavar="NAME", help=f"by default {text}")
    added = command(
        check,
        "say which exercises of a notebook are right",
        "Runs the exercises of a notebook, and nothing else of it, and says for each whether it is right, wrong (and\n"
        "what is wrong) or unsolved. Seconds. Exits with 0 if all that is solved is right.\n\n"
        "  lora-course check notebooks/02_the_lora_layer.ipynb",
    )
    added.add_argument("notebook", type=Path)
    added.add_argument("--seconds", type=_whole, default=120, metavar="N", help="for one exercise, by default 120")
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
    added.add_argument("--jobs", type=_whole, default=1, metavar="N", help="at once, by default 1; 1 GiB each")
    added.add_argument("--seconds", type=_whole, default=60, metavar="N", help="for one exercise, by default 60")
    added.add_argument("--memory", type=_whole, default=4096, metavar="MIB", help="for one exercise, by default 4096")
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
    return parser


def _bench_arguments(parser: argparse.ArgumentParser, out: Path, train: int) -> None:
    parser.add_argument("--seeds", nargs="+", type=_whole, default=[0, 1, 2], metavar="N", help="by default 0 1 2")
    parser.add_argument(
        "--train", type=_whole, default=train, metavar="N", help=f"sentences to train on, by default {train}"
    )
    parser.add_argument("--test", type=_whole, default=800, metavar="N", help="to judge on, by default 800")
    parser.add_argument("--out", type=Path, default=out, help=f"folder, by default ./{out}")
    parser.add_argument("--benchmarks", type=Path, metavar="FILE", help="put the report into this file too")


def doctor(arguments: argparse.Namespace) -> int:
    from lora_course.doctor import diagnose

    findings = diagnose(course_folder(Path("constraints.txt")) or Path(__file__).resolve().parents[1])
    for finding in findings:
        print(f"{'[' + finding.level + ']':6} {finding.title:15} {finding.detail}")
    levels = [finding.level for finding in findings]
    print(f"\n{levels.count('fail')} to repair, {levels.count('warn')} to know about, {levels.count('ok')} in order.")
    return 1 if "fail" in levels else 0


def fetch(arguments: argparse.Namespace) -> int:
    from lora_course import assets

    try:
        statuses = assets.fetch(progress=True, source=arguments.source)
    except assets.AssetError as error:
        return _problem(str(error))
    for status in statuses:
        print(f"{status.name:10} {status.bytes / 1e6:6.0f} MB  {status.path}")
    print(f"{'together':10} {sum(status.bytes for status in statuses) / 1e6:6.0f} MB")
    return 0


def room(arguments: argparse.Namespace) -> int:
    from lora_course.room.build import RoomError, build_room

    def run(root: Path) -> int:
        try:
            made = build_room(root, arguments.folder, say=print)
        except RoomError as error:
            return _problem(str(error))
        print(made)
        return 0

    return _with_sources(run)


def lab(arguments: argparse.Namespace) -> int:
    root = course_folder(START)
    if root is None:
        return _problem(
            f"{START} is neither in {Path.cwd()} nor beside the installed package. The notebooks come with a clone of "
            "the repository, not with the package: run this command in the clone's folder."
        )
    if not arguments.skip_fetch:
        from lora_course import assets

        try:
            assets.fetch(progress=True)
        except assets.AssetError as error:
            missing = [status.name for status in assets.asset_status() if not status.present]
            print(f"warning: {error}\n{what_is_missing(missing, root / START.parent)}", file=sys.stderr)
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    command = lab_command(root, not arguments.no_browser, arguments.port, as_root)
    print("JupyterLab starts; Ctrl-C here stops it.", flush=True)
    return _hand_over_to(command, lab_environment(os.environ))


def build(arguments: argparse.Namespace) -> int:
    root = course_folder(Path("solutions"))
    if root is None:
        return _problem("no solutions/ here or beside the package: run this command in a clone of the repository.")
    try:
        from lora_course.teaching import authoring
        from lora_course.teaching.source import SourceError
    except ModuleNotFoundError as error:
        if error.name not in AUTHOR_EXTRA:
            raise
        return _problem(f'{error.name} is not installed. Authors need: pip install -c constraints.txt -e ".[author]"')
    chosen = arguments.execute
    execute = chosen[0] if chosen in (["all"], ["stale"]) else chosen
    try:
        problems = authoring.build(root, check=arguments.check, execute=execute)
    except SourceError as error:
        return _problem(str(error))
    except ValueError as error:  # a slug that does not exist
        return _problem(str(error), code=2)
    for problem in problems:
        print(problem)
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
            return _problem(str(error))
        changed = [name for name, unchanged in same.items() if not unchanged]
        if not changed:
            print("The tables in README.md and READING.md are what the methods and references make.")
        elif arguments.check:
            return _problem(f"{' and '.join(changed)} out of date: run `lora-course table`")
        else:
            print(f"{' and '.join(changed)} brought up to date.")
        return 0

    return _with_sources(run)


def bench(arguments: argparse.Namespace) -> int:
    kinds = {"methods": bench_methods, "claims": bench_claims, "overhead": bench_overhead}
    return kinds[arguments.what](arguments)


def bench_overhead(arguments: argparse.Namespace) -> int:
    import json
    import platform

    import torch

    from lora_course.assets import AssetError
    from lora_course.atomic import write_files
    from lora_course.device import describe_device
    from lora_course.experiments import overhead

    busy = f", load average {os.getloadavg()[0]:.1f} before it began" if hasattr(os, "getloadavg") else ""
    try:
        rows = overhead.measure_overhead(arguments.rounds)
    except AssetError as error:
        return _problem(str(error))
    machine = f"{describe_device(torch.device('cpu'))}, {platform.machine()}, torch {torch.__version__}{busy}"
    text = overhead.report(rows, machine)
    print(text)
    try:
        if arguments.json:
            numbers = json.dumps(overhead.as_json(rows), indent=1)
            write_files({arguments.json: numbers})
        _into_benchmarks(arguments.out, "overhead", text)
    except (OSError, ValueError) as error:
        return _problem(str(error))
    print(f"Written to {arguments.out}{f' and {arguments.json}' if arguments.json else ''}.")
    return 0


def _into_benchmarks(path: Path, name: str, made: str) -> None:
    """Put one section into the file of benchmarks; the others stay."""
    from lora_course.atomic import write_files
    from lora_course.tables import put_between

    old = path.read_text(encoding="utf-8") if path.exists() else BENCHMARKS
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = put_between(old if begin in old else f"{old.rstrip()}\n\n{begin}\n{end}\n", begin, end, made)
    write_files({path: text})


def bench_methods(arguments: argparse.Namespace) -> int:
    from lora_course.experiments.benchmark_report import FIGURE
    from lora_course.experiments.recipes import RECIPES, grid

    methods = list(dict.fromkeys(arguments.methods or RECIPES))
    try:
        chosen = grid(methods, arguments.ranks, arguments.targets, arguments.rates)
    except ValueError as error:
        return _problem(str(error), code=2)
    return _run_benchmark(arguments, chosen, "methods", lambda: ("report.md", [FIGURE]))


def bench_claims(arguments: argparse.Namespace) -> int:
    from lora_course.experiments.claims import all_configurations, write_report

    return _run_benchmark(arguments, all_configurations(), "claims", lambda: write_report(arguments.out))


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
        return _problem(str(error))
    print(f"Written to {arguments.out}: {text}, results.csv, results.json, figures, and runs/ with every history.")
    return 0


def _publish(out: Path, report: str, figures: Sequence[str], benchmarks: Path, name: str) -> None:
    """Put a report into the file of benchmarks, one level down, and its figures into figures/ beside that file."""
    import re

    from lora_course.atomic import write_files

    folder = benchmarks.parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        write_files({folder / f"{name}_{figure}": (out / figure).read_bytes()})
        report = report.replace(f"]({figure})", f"](figures/{name}_{figure})")
    _into_benchmarks(benchmarks, name, re.sub(r"^#", "##", report, flags=re.MULTILINE))


def plan(arguments: argparse.Namespace) -> int:
    import torch

    from lora_course.adapters.config import AdapterConfig
    from lora_course.atomic import write_files
    from lora_course.memory import plan as predict

    try:
        adapter = None
        if arguments.method != "full":
            targets = arguments.targets or "all-linear"
            adapter = AdapterConfig(arguments.method, arguments.rank, target_modules=targets, dropout=arguments.dropout)
        adapter_dtype = arguments.adapter_dtype and getattr(torch, arguments.adapter_dtype)
        same = ("batch", "sequence", "optimizer", "checkpointing", "quantization")
        situation = {name: getattr(arguments, name) for name in same}
        situation |= {"dtype": getattr(torch, arguments.dtype), "adapter_dtype": adapter_dtype}
        planned = predict(arguments.model, adapter, **situation)
    except ValueError as error:
        return _problem(str(error), code=2)
    print(planned)
    if arguments.json:
        text = json.dumps({"arguments": _plain(arguments), **planned.to_dict()}, indent=1) + "\n"
        try:
            write_files({arguments.json: text})
        except OSError as error:
            return _problem(str(error))
    return 0


def search(arguments: argparse.Namespace) -> int:
    from optuna.exceptions import OptunaError

    from lora_course.assets import AssetError
    from lora_course.atomic import write_files
    from lora_course.experiments import search as work
    from lora_course.experiments.search_results import as_json, best
    from lora_course.experiments.search_space import Plan
    from lora_course.experiments.search_storage import requeue_running

    names = ("train", "validation", "epochs", "batch_size", "seed", "model", "data", "metric", "sampler", "pruner")
    chosen = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if not arguments.trials:
        return _problem("--trials is 1 or more", code=2)
    try:
        plan = Plan(**chosen) if chosen else None
    except (TypeError, ValueError) as error:
        return _problem(str(error), code=2)
    try:
        study = work.open_study(arguments.storage, plan, arguments.name)
        if arguments.requeue_running:
            print(f"queued again: {requeue_running(study) or 'nothing'}")
        histories = arguments.out and arguments.out / "histories"
        results = work.search(study, arguments.trials, histories=histories)
        plan = work.plan_of(study)
        if arguments.json:
            text = json.dumps(as_json(results, plan), indent=1) + "\n"
            write_files({arguments.json: text})
        if arguments.out:
            work.write_report(results, plan, arguments.out)
    except (AssetError, OptunaError, OSError, ValueError) as error:
        return _problem(str(error))
    try:
        found = best(results, plan.metric)
    except ValueError as error:
        return _problem(str(error))
    print(f"The best by {plan.validation} reviews. They have chosen it, so they flatter it: judge it on others.")
    print(found.line(plan.metric))
    return 0


def check(arguments: argparse.Namespace) -> int:
    from lora_course.teaching.grading.learner import check_notebook

    return _with_sources(lambda root: check_notebook(root, arguments.notebook, arguments.seconds))


def grade(arguments: argparse.Namespace) -> int:
    from lora_course.teaching.grading.grade import Limits, grade_folder, in_words
    from lora_course.teaching.grading.report import write_reports

    if not arguments.submissions.is_dir():
        return _problem(f"{arguments.submissions} is not a folder", code=2)
    if not (arguments.seconds and arguments.memory and arguments.jobs):
        return _problem("--seconds, --memory and --jobs are 1 or more", code=2)

    def run(root: Path) -> int:
        limits = Limits(seconds=arguments.seconds, memory=arguments.memory)
        graded = grade_folder(root, arguments.submissions, arguments.out, arguments.jobs, limits, say=print)
        write_reports(graded, arguments.out)
        for note in graded.notes:
            print(note, file=sys.stderr)
        print(f"{in_words(graded.rows) or 'no notebook found'}. Written to {arguments.out}: grades.csv, index.html.")
        return 0 if graded.rows else 1

    return _with_sources(run)


def mutate(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from lora_course.atomic import write_files
    from lora_course.teaching.mutation import record
    from lora_course.teaching.mutation.measure import measure

    def run(root: Path) -> int:
        try:
            found, judged = measure(root, arguments.lesson, say=partial(print, flush=True))
        except ValueError as error:
            return _problem(str(error), code=2)
        except RuntimeError as error:
            return _problem(str(error))
        if arguments.json:
            text = json.dumps([asdict(one) for one in judged], indent=1, ensure_ascii=False) + "\n"
            write_files({arguments.json: text})
        problems = record.problems(root, found)
        print(*problems, sep="\n", end="\n" if problems else "")
        print(f"{record.share(found):.1%} of all mutants are rejected. Written to {record.PAGE}.")
        return 1 if problems else 0

    return _with_sources(run)


def _with_sources(run: Callable[[Path], int]) -> int:
    """Runs what needs the lessons' sources, and says what is missing where they cannot be had."""
    root = course_folder(Path("solutions"))
    if root is None:
        return _problem("no solutions/ here or beside the package: run this command in a clone of the repository.")
    from lora_course.teaching.source import SourceError

    try:
        return run(root)
    except (SourceError, OSError) as error:
        return _problem(str(error))


def course_folder(wanted: Path) -> Path | None:
    """The folder that has `wanted` in it: the current one, else the checkout that the package lies in, else None."""
    for folder in (Path.cwd(), Path(__file__).resolve().parents[1]):
        if (folder / wanted).exists():
            return folder
    return None


def lab_command(root: Path, browser: bool, port: int | None, as_root: bool) -> list[str]:
    """The command line that opens lesson 00 with this Python's JupyterLab and with `root` as its folder.

    -P keeps modules of the current folder out of the server. The start page is an address, not an argument, because
    Jupyter hides the other folders from who names a notebook. Ctrl-C asks no question.
    """
    command = [sys.executable, "-P", "-m", "jupyterlab", f"--ServerApp.root_dir={root}"]
    command += [f"--LabApp.default_url=/lab/tree/{START.as_posix()}", "--ServerApp.answer_yes=True"]
    if not browser:
        command += ["--no-browser"]
    if port is not None:
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if as_root:  # in a container; Jupyter would refuse
        command += ["--allow-root"]
    return command


def lab_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with our settings of JupyterLab (no news, no update notices), after those the user names there."""
    named = environment.get("JUPYTER_CONFIG_PATH")
    paths = [named, str(JUPYTER_SETTINGS)] if named else [str(JUPYTER_SETTINGS)]
    return {**environment, "JUPYTER_CONFIG_PATH": os.pathsep.join(paths)}


def what_is_missing(missing: Sequence[str], notebooks: Path) -> str:
    """Which lessons load which of the missing assets, found by reading the notebooks."""
    lines = ["JupyterLab opens all the same. Until `lora-course fetch` succeeds, these lessons will stop:"]
    for name in missing:
        lessons = [
            path.stem
            for path in sorted(notebooks.glob("[0-9]*.ipynb"))
            if LOADERS[name] in path.read_text(encoding="utf-8")
        ]
        lines.append(f"  without {name}: {', '.join(lessons) or 'none'}")
    return "\n".join(lines)


def _hand_over_to(command: list[str], environment: dict[str, str]) -> int:
    """Runs `command` in our place, so that signals reach it and our memory is free; returns only on Windows."""
    if os.name == "posix":
        os.execve(command[0], command, environment)
    return wait_for(subprocess.Popen(command, env=environment))


def wait_for(process: subprocess.Popen) -> int:
    """The exit code of a process that gets the user's Ctrl-C itself."""
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, not {text!r}")
    return int(text)


def _plain(arguments: argparse.Namespace) -> dict[str, object]:
    return {name: value for name, value in vars(arguments).items() if name not in ("run", "json")}


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"a whole number, 0 or more, not {text!r}")
    return int(text)


def _problem(text: str, code: int = 1) -> int:
    print(f"lora-course: {text}", file=sys.stderr)
    return code
