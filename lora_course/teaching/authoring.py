"""Notebooks from sources: solutions/NN_slug.py becomes an executed solution and a student's copy, byte for byte alike
on every build.

    source --for_student--> notebooks/NN_slug.ipynb     stubs instead of solutions, no outputs
    source ---execute-----> solutions/NN_slug.ipynb     outputs kept, and carried over while no code cell changes
Saved outputs hold what a reader would see: progress bars and live widgets, which cannot be saved, are taken out, and
anything else on stderr makes the build fail. A notebook that was edited by hand is never overwritten.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from lora_course.atomic import write_files
from lora_course.teaching.source import Cell, Lesson, lesson_paths, read_lesson

CELL_TIMEOUT = 3600  # seconds; a lesson's longest run takes minutes
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PROGRESS_BAR = re.compile(r"\d+%\||\d\w* \[\d\d:\d\d")  # tqdm: " 40%|####  | 4/10" or "7it [00:01, 5.0it/s]"
WIDGET = "application/vnd.jupyter.widget-view+json"
LIVE = {WIDGET, "application/javascript"}  # a widget's panel shows a script too
CHECKED = "nbval-check-output"


def build(root: Path, check: bool = False, execute: str | Sequence[str] | None = None) -> list[str]:
    """Brings every notebook under `root` up to date; returns what is still amiss, one line each, empty if nothing.

    check: write nothing, only report what a build would change.
    execute: which solutions to run: "stale" (code changed, or never run), "all", or a list of slugs. A solution whose
        code is unchanged keeps its outputs; a stale one that is not run is reported and left alone.
    Raises SourceError for a source that cannot be built, ValueError for a slug that does not exist.
    """
    root = Path(root)
    lessons = [read_lesson(path, root) for path in lesson_paths(root)]
    slugs = [lesson.slug for lesson in lessons]
    wanted = slugs if execute == "all" else [] if execute in (None, "stale") else list(execute)
    if unknown := set(wanted) - set(slugs):
        raise ValueError(f"no such lesson: {', '.join(sorted(unknown))}; there are: {', '.join(slugs)}")
    if check and execute:
        raise ValueError("check=True writes nothing, so there is nothing to execute")
    problems = []
    for lesson in lessons:
        problems += _settle(lesson.student_path, notebook_for(lesson, student=True), root, check)
        solution = notebook_for(lesson, student=False)
        stale = not carry_outputs(lesson.solution_path, solution)
        if _edited(lesson.solution_path) or not (stale or lesson.slug in wanted):
            failures = []
        elif lesson.slug in wanted or execute == "stale":
            failures = run(lesson, solution)
        else:
            failures = [f"{_name(lesson.solution_path, root)}: must be executed, it is new or its code changed"]
        problems += failures or _settle(lesson.solution_path, solution, root, check)
    built = {path for lesson in lessons for path in (lesson.student_path, lesson.solution_path)}
    there = [path for folder in ("notebooks", "solutions") for path in sorted((root / folder).glob("[0-9]*.ipynb"))]
    return problems + [f"{_name(path, root)}: no source in solutions/ builds it" for path in there if path not in built]


def notebook_for(lesson: Lesson, student: bool) -> NotebookNode:
    """A notebook without outputs: the student's copy, or the solution."""
    seen: Counter[str] = Counter()
    cells = []
    for cell in lesson.cells:
        source = cell.for_student() if student else cell.source
        node: dict[str, Any] = {"cell_type": cell.kind, "id": _cell_id(cell, source, seen), "source": source}
        node["metadata"] = cell.metadata | _nbgrader(cell)
        if cell.kind == "code":
            node |= {"execution_count": None, "outputs": []}
        cells.append(node)
    metadata = KERNEL | {"lora_course": {"digest": _digest(cells)}}
    notebook = nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})
    nbformat.validate(notebook)
    return notebook


def _cell_id(cell: Cell, source: str, seen: Counter[str]) -> str:
    """ex-02-1 or chk-02-1 for an exercise's cells, else from the content; the second of two equal cells ends in -2."""
    if cell.exercise or cell.check:
        return f"{'ex' if cell.exercise else 'chk'}-{(cell.exercise or cell.check).replace('.', '-')}"
    name = hashlib.sha256(f"{cell.kind}\n{source}".encode()).hexdigest()[:12]
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}-{seen[name]}"


def _nbgrader(cell: Cell) -> dict[str, Any]:
    """nbgrader's cell metadata, version 3: a learner's answer, or a locked test worth one point."""
    if not (cell.exercise or cell.check):
        return {}
    about = {"schema_version": 3, "grade_id": _cell_id(cell, "", Counter()), "task": False}
    if cell.exercise:
        return {"nbgrader": about | {"solution": True, "grade": False, "locked": False}}
    return {"nbgrader": about | {"solution": False, "grade": True, "locked": True, "points": 1}}


def _digest(cells: Sequence[dict[str, Any]]) -> str:
    """Of the cells' text, to tell a notebook as it was built from one that somebody edited."""
    text = "\0".join(f"{cell['cell_type']}\n{cell['source']}" for cell in cells)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def carry_outputs(saved_path: Path, notebook: NotebookNode) -> bool:
    """Copies outputs from the saved notebook into this one if all code cells are the same and were executed."""
    saved = read_notebook(saved_path)
    if saved is None:
        return False
    old, new = _code(saved), _code(notebook)
    if [cell.source for cell in old] != [cell.source for cell in new]:
        return False
    if any(cell.execution_count is None for cell in old):
        return False
    for mine, theirs in zip(new, old, strict=True):
        mine.outputs, mine.execution_count = theirs.outputs, theirs.execution_count
    return True


def run(lesson: Lesson, notebook: NotebookNode) -> list[str]:
    """Executes a solution in place, in its own folder, with strict checks and the cpu profile; returns what failed."""
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ThisPython())
    client = NotebookClient(
        notebook, km=manager, timeout=CELL_TIMEOUT,
        record_timing=False, coalesce_streams=True, store_widget_state=False,
        resources={"metadata": {"path": str(lesson.path.parent)}},
    )
    with tempfile.TemporaryDirectory() as data:
        strict = {"LORA_COURSE_STRICT": "1", "LORA_COURSE_PROFILE": "cpu", "LORA_COURSE_DATA": data}
        try:
            client.execute(env=os.environ | strict, stderr=subprocess.DEVNULL, cleanup_kc=True)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            reached = [cell for cell, node in zip(lesson.cells, notebook.cells, strict=True)
                       if cell.kind == "code" and (node.execution_count or node.outputs)]
            line = reached[-1].line if reached else 1
            said = f"{error.ename}: {error.evalue}" if isinstance(error, CellExecutionError) else str(error)
            return [f"{lesson.path.name}:{line}: {said}"]
    notebook.metadata.language_info = nbformat.from_dict(KERNEL["language_info"])
    return [
        f"{lesson.path.name}:{cell.line}: {problem}"
        for cell, node in zip(lesson.cells, notebook.cells, strict=True)
        if cell.kind == "code"
        for problem in clean_outputs(node)
    ]


class ThisPython(KernelSpecManager):
    """Finds one kernel only: the Python that runs the build."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return self.kernel_spec_class(resource_dir=RESOURCES, **get_kernel_dict())


def clean_outputs(cell: NotebookNode) -> list[str]:
    """Takes progress bars and live widgets out of a cell's outputs; returns what else should not be there."""
    kept, problems = [], []
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            parts = [part.strip() for part in re.split(r"[\r\n]+", output.text)]
            spam = [part for part in parts if part and not PROGRESS_BAR.search(part)]
            problems += [f"writes to stderr: {spam[0]}"] if spam else []
        elif LIVE.isdisjoint(output.get("data", {})):
            kept.append(output)
    if len(kept) < len(cell.outputs) and CHECKED in cell.metadata.get("tags", []):
        problems.append(f"is tagged {CHECKED} but shows a progress bar, a widget or stderr, which is not saved")
    cell.outputs = kept
    return problems


def _settle(path: Path, notebook: NotebookNode, root: Path, check: bool) -> list[str]:
    """Writes the notebook if it differs from the file, unless that is somebody's work; or reports the difference."""
    text = nbformat.writes(notebook) + "\n"
    old = path.read_text(encoding="utf-8") if path.exists() else None
    if old == text:
        return []
    if _edited(path):
        return [f"{_name(path, root)}: edited by hand, so it is left alone; change {path.stem}.py, or move it away"]
    if check:
        return [f"{_name(path, root)}: {'missing' if old is None else 'differs from what its source builds'}"]
    path.parent.mkdir(exist_ok=True)
    write_files({path: text})
    return []


def _edited(path: Path) -> bool:
    """Whether a notebook is there that no longer has the cells that it was built with, or was never built by us."""
    notebook = read_notebook(path)
    if notebook is None:
        return path.exists()
    return notebook.metadata.get("lora_course", {}).get("digest") != _digest(notebook.cells)


def read_notebook(path: Path) -> NotebookNode | None:
    """The notebook there; None if there is none, or something else."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError):
        return None


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
