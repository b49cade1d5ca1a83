"""`plan` and `search`."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

from lora_course.cli.common import Command, problem, whole

DTYPES = ("float32", "bfloat16", "float16")


def register(command: Command) -> None:
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
    added.add_argument("--rank", type=whole, default=8, metavar="N", help="by default 8")
    added.add_argument("--targets", nargs="+", metavar="NAME", help="name suffixes; by default all linear layers")
    added.add_argument("--dropout", type=float, default=0.0, metavar="P", help="of the adapters, by default 0")
    added.add_argument("--batch", type=whole, default=1, metavar="N", help="examples, by default 1")
    added.add_argument("--sequence", type=whole, default=128, metavar="N", help="tokens of each, by default 128")
    added.add_argument("--dtype", choices=DTYPES, default="float32", help="of weights and activations")
    added.add_argument("--adapter-dtype", choices=DTYPES, help="of the adapters, by default --dtype")
    added.add_argument("--optimizer", default="adamw", metavar="NAME", help="adamw, lora_plus, lora_fa or sgd")
    added.add_argument("--checkpointing", action="store_true", help="compute every block again in the backward pass")
    added.add_argument("--quantization", metavar="NAME", help="nf4, nf4-double or int8, of the frozen linear layers")
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
    added.add_argument("--trials", type=whole, default=20, metavar="N", help="in all, by default 20")
    added.add_argument("--storage", default="search.db", metavar="WHERE", help="by default search.db")
    added.add_argument("--name", default="search", help="of the study, by default search")
    added.add_argument("--out", type=Path, metavar="FOLDER", help="results, pictures, and this machine's histories")
    added.add_argument("--json", type=Path, metavar="FILE", help="write plan, trials and importances there")
    added.add_argument(
        "--requeue-running", action="store_true", help="nobody else is at work: queue what seems to run, at once"
    )
    for name, text in (("train", "640"), ("validation", "200"), ("max_words", "any"), ("epochs", "1"),
                       ("batch_size", "16"), ("seed", "0")):  # fmt: skip
        added.add_argument(f"--{name.replace('_', '-')}", type=whole, metavar="N", help=f"by default {text}")
    for name, text in (("model", "packaged"), ("data", "rotten_tomatoes"), ("metric", "loss; or accuracy, f1"),
                       ("sampler", "tpe; or random"), ("pruner", "median; or halving, none")):  # fmt: skip
        added.add_argument(f"--{name}", metavar="NAME", help=f"by default {text}")


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
        return problem(str(error), code=2)
    print(planned)
    if arguments.json:
        text = json.dumps({"arguments": _plain(arguments), **planned.to_dict()}, indent=1) + "\n"
        try:
            write_files({arguments.json: text})
        except OSError as error:
            return problem(str(error))
    return 0


def _plain(arguments: argparse.Namespace) -> dict[str, object]:
    return {name: value for name, value in vars(arguments).items() if name not in ("run", "json")}


def search(arguments: argparse.Namespace) -> int:
    from optuna.exceptions import OptunaError

    from lora_course.assets import AssetError
    from lora_course.atomic import write_files
    from lora_course.experiments import search as work
    from lora_course.experiments.search_results import as_json, best
    from lora_course.experiments.search_space import Plan
    from lora_course.experiments.search_storage import requeue_running

    given = vars(arguments)
    chosen = {field.name: given[field.name] for field in fields(Plan) if given.get(field.name) is not None}
    if not arguments.trials:
        return problem("--trials is 1 or more", code=2)
    try:
        plan = Plan(**chosen) if chosen else None
    except (TypeError, ValueError) as error:
        return problem(str(error), code=2)
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
        return problem(str(error))
    try:
        found = best(results, plan.metric)
    except ValueError as error:
        return problem(str(error))
    print(f"The best by {plan.validation} reviews. They have chosen it, so they flatter it: judge it on others.")
    print(found.line(plan.metric))
    return 0
