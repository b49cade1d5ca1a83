"""What a learner has solved: one small JSON file for each exercise and outcome, in a folder of the user's.

    <data>/progress/02.1.right.json     {"exercise": "02.1", "outcome": "right", "first": "...", "last": "..."}
`right` is never erased by a later `wrong`, because they are different files; each is written beside its place and
then renamed over it, so two kernels can write at once and a kill leaves the old file or the new one.
A folder that cannot be written is mentioned once, on stderr; the lesson goes on.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import platformdirs

from lora_course.atomic import write_files

OUTCOMES = ("unsolved", "wrong", "right")
RECORD_NAME = re.compile(r"(\d\d\.\d{1,2})\.(unsolved|wrong|right)\.json")
_warned = False


def progress_folder() -> Path:
    """Where the files lie: LORA_COURSE_DATA/progress, or the platform's folder for the user's data."""
    data = os.environ.get("LORA_COURSE_DATA") or platformdirs.user_data_dir("lora_course", appauthor=False)
    return Path(data) / "progress"


def record(exercise_id: str, outcome: str) -> None:
    """Note an outcome: "unsolved", "wrong" or "right". Never raises for a folder that is missing, full or not ours.

    Raises ValueError for an outcome or an id of another form, which would be a mistake in the course.
    """
    name = f"{exercise_id}.{outcome}.json"
    if not RECORD_NAME.fullmatch(name):
        raise ValueError(f"exercise {exercise_id!r}, outcome {outcome!r}: an outcome is one of {', '.join(OUTCOMES)}")
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    try:
        path = progress_folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        first = (_read(path) or {}).get("first", now)
        _write(path, {"exercise": exercise_id, "outcome": outcome, "first": first, "last": now})
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        _warn(error)


def progress() -> dict[str, str]:
    """Exercise id -> "right" if it ever was, else its latest outcome; ids in order."""
    return {
        exercise_id: "right" if "right" in seen else max(seen, key=lambda outcome: seen[outcome]["last"])
        for exercise_id, seen in _records().items()
    }


def _records() -> dict[str, dict[str, dict[str, str]]]:
    """Exercise id -> outcome -> {"first": time, "last": time}. A file that cannot be read counts as missing."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for path in _record_files():
        entry = _read(path)
        if entry:
            exercise_id, outcome = RECORD_NAME.fullmatch(path.name).groups()
            found.setdefault(exercise_id, {})[outcome] = {key: entry[key] for key in ("first", "last")}
    return dict(sorted(found.items(), key=lambda item: [int(number) for number in item[0].split(".")]))


def reset() -> None:
    """Forget everything: deletes the progress files and nothing else. Raises OSError where that is not allowed."""
    for path in _record_files():
        path.unlink(missing_ok=True)


def export(path: str | Path) -> Path:
    """Writes every record into one JSON file: exercise id -> outcome -> first and last time (ISO 8601, UTC).

    Returns its path. Raises OSError if it cannot be written; a file that was there then stays as it was.
    """
    _write(Path(path), _records())
    return Path(path)


def _write(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=1) + "\n"
    for pause in (0.01, 0.05, 0.2, None):
        try:
            return write_files({path: text})
        except PermissionError:  # Windows refuses while another kernel has the file open
            if pause is None or sys.platform != "win32":
                raise
            time.sleep(pause)


def _record_files() -> list[Path]:
    try:
        return sorted(path for path in progress_folder().iterdir() if RECORD_NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []
    except (OSError, RuntimeError) as error:
        _warn(error)
        return []


def _read(path: Path) -> dict[str, str] | None:
    """The record in `path`; None if it is missing or is not a record."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _warn(error)
        return None
    whole = isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("first", "last"))
    return entry if whole else None


def _warn(error: Exception) -> None:
    global _warned
    if not _warned:
        _warned = True
        print(f"Your progress cannot be kept; the lesson goes on without it ({error}).", file=sys.stderr)
