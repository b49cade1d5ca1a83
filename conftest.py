"""Settings of every test run, so that `pytest` alone does the right thing for unit tests and for notebooks.

A notebook's kernel inherits its environment when its first cell is set up. Under solutions/ it is strict, in the cpu
profile whose numbers the solutions show; under notebooks/ it is lenient, in the smoke profile. LORA_COURSE_PROFILE
(solutions) and LORA_COURSE_STRICT (notebooks: LORA_COURSE_STRICT=1 grades one) win where you set them. Progress goes
to a temporary folder, never to yours.

A bare `pytest` runs everything in two processes, a file at a time, each with its share of the cores: small products
gain little from a second thread. `pytest FILE` runs in one process; so does `pytest -n0`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent
progress_folders = pytest.StashKey[Path]()


CORES = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1
LARGEST = 6 * 2**30  # bytes that one process and its notebook's kernel need

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # before anything imports torch
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // workers)))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return 2 if everything and CORES > 1 and psutil.virtual_memory().available > 2 * LARGEST else 0


def pytest_configure(config: pytest.Config) -> None:
    folder = tempfile.TemporaryDirectory(prefix="lora_course_progress_")
    config.add_cleanup(folder.cleanup)
    config.stash[progress_folders] = Path(folder.name)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    if item.path.suffix != ".ipynb":
        return (yield)
    with environment(notebook_environment(item)):
        return (yield)


def notebook_environment(item: pytest.Item) -> dict[str, str]:
    """What the kernel of a notebook under solutions/ or notebooks/ must find; elsewhere only a progress folder."""
    folder = item.path.resolve().parent
    chosen = {"LORA_COURSE_DATA": str(item.config.stash[progress_folders] / folder.name / item.path.stem)}
    if folder == ROOT / "solutions":
        profile = os.environ.get("LORA_COURSE_PROFILE") or "cpu"
        chosen |= {"LORA_COURSE_STRICT": "1", "LORA_COURSE_PROFILE": profile}
    elif folder == ROOT / "notebooks":
        chosen |= {"LORA_COURSE_PROFILE": "smoke"}
    return chosen


@contextmanager
def environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture(autouse=True)
def untouched_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test writes into a folder of its own, and raises for a wrong answer only where it says so."""
    monkeypatch.setenv("LORA_COURSE_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("LORA_COURSE_STRICT", raising=False)
