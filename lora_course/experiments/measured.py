"""What the long benchmarks of BENCHMARKS.md found, in the package, so that a lesson can draw it without running it.

`lora-course bench methods` and `bench claims` write these files along with their report (--benchmarks). They hold the
histories without their steps: settings, parameter counts, evaluations, and all that was measured besides.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lora_course.atomic import write_files
from lora_course.training.history import History

FOLDER = Path(__file__).parent / "measured"


def load_measured(name: str) -> list[History]:
    """name: "methods" or "claims". Raises ValueError for any other."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        known = ", ".join(sorted(there.stem for there in FOLDER.glob("*.json")))
        raise ValueError(f"nothing measured is called {name!r}; there are {known}")
    return [History.from_dict(one) for one in json.loads(path.read_text(encoding="utf-8"))]


def save_measured(name: str, histories: Sequence[History]) -> None:
    """Put the histories, without steps and layers, where `load_measured` finds them: one line each."""
    lines = [json.dumps(replace(history, steps=[], layers=[]).to_dict()) for history in histories]
    FOLDER.mkdir(exist_ok=True)
    write_files({FOLDER / f"{name}.json": "[\n" + ",\n".join(lines) + "\n]\n"})
