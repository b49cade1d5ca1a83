"""The grader's end of a runner: start one, ask it about an answer, replace it when it dies.

    with Worker(course, hidden) as worker:
        worker.examine(assignment, "02.1", {"02.1": source}, limits)        -> ("right", "Verified: ...")
`worker.notes` says what this machine could not prevent, once the runner has started.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from lora_course.teaching.grading.assignment import Assignment
from lora_course.teaching.grading.examine import secret_folders
from lora_course.teaching.grading.sandbox import Limits, in_namespaces, scrubbed_environment

START_SECONDS_ALONE = 20  # importing the lesson's modules is part of each answer where nothing is forked
START_SECONDS = 600  # importing torch from a cold disk, on a machine that does other things
NOT_ISOLATED = (
    "Not isolated: {reason}. Answers ran under limits, in a temporary home and without credentials in their "
    "environment, but the network, and files that this account can write, were not closed to them. Grade strangers' "
    "notebooks in a container or a virtual machine."
)


class RunnerDied(Exception):
    """The runner ended."""


class RunnerSilent(RunnerDied):
    """The runner said nothing in time."""


class Worker:
    """course: the folder with solutions/. hidden: folders that answers must not see, where that can be refused.
    isolate: False for a learner's own report, where there is nobody to be protected from. forks: False makes a runner
    for each answer instead of a fork, as Windows needs it."""

    def __init__(self, course: Path, hidden: list[Path], isolate: bool = True, forks: bool = hasattr(os, "fork")):
        self.course, self.hidden, self.isolate, self.forks = course, hidden, isolate and forks, forks
        self.notes: list[str] = [] if forks else [NOT_ISOLATED.format(reason="this system cannot fork processes")]
        self.process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="lora_course_grading_")).resolve()
        self.sent: set[str] = set()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def examine(
        self, assignment: Assignment, exercise_id: str, answers: dict[str, str], limits: Limits
    ) -> tuple[str, str]:
        """answers: the one to judge, and the earlier ones that were right. Returns (result, message)."""
        steps = [asdict(step) for step in assignment.steps]
        last = next(i for i, step in enumerate(steps) if step["exercise"] == exercise_id)
        task = {"lesson": assignment.number, "all_steps": steps, "steps": steps[: last + 1], "exercise": exercise_id}
        task |= {"answers": answers, "limits": asdict(limits), "secrets": secret_folders(self.course)}
        try:
            if self.process is None:
                self._start()
            first = assignment.number not in self.sent
            self.sent.add(assignment.number)
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
            self.process.stdin.flush()
            spare = 60 + START_SECONDS * first if self.forks else START_SECONDS_ALONE
            reply = self._reply(limits.seconds + spare)
            if not self.forks:
                self._stop()
            return reply["result"], reply["message"]
        except RunnerSilent:
            self._stop()
            return "error", f"ran longer than {limits.seconds:g} s and was stopped"
        except (RunnerDied, OSError):
            self._stop()
            return "error", "the process that grades ended while this answer ran"

    def _start(self) -> None:
        """Isolated if that is wanted and works; else open, with a note. Raises RunnerDied if neither starts."""
        reason = "there is no unshare here" if self.isolate else ""
        command = [sys.executable, "-P", "-m", "lora_course.teaching.grading.runner", str(self.folder)]
        hidden = [str(path.resolve()) for path in [*self.hidden, self.course / "solutions"]]
        inside = in_namespaces([*command, "isolated", *hidden]) if self.isolate else None
        if inside:
            try:
                return self._launch(inside)
            except RunnerDied as error:
                reason = f"this machine does not permit it ({error})"
        self.isolate = False
        self.notes += [NOT_ISOLATED.format(reason=reason)] if reason else []
        self._launch([*command, "open" if self.forks else "alone"])

    def _launch(self, command: list[str]) -> None:
        with open(self.folder.with_suffix(".log"), "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=self.folder,
                env=scrubbed_environment(self.folder), start_new_session=True,
            )  # fmt: skip
        try:
            self._reply(START_SECONDS)
        except RunnerDied:
            lines = self.folder.with_suffix(".log").read_text(errors="replace").strip().splitlines()
            self._stop()
            raise RunnerDied(lines[-1] if lines else "it ended without a word") from None

    def _reply(self, seconds: float) -> dict[str, Any]:
        """One line from the runner. Raises RunnerSilent if none comes in time, RunnerDied if it ended."""
        said: Queue[bytes] = Queue()
        Thread(target=lambda pipe: said.put(pipe.readline()), args=(self.process.stdout,), daemon=True).start()
        try:
            line = said.get(timeout=seconds)
        except Empty:
            raise RunnerSilent("it did not answer in time") from None
        if not line:
            raise RunnerDied("it ended")
        return json.loads(line)

    def _stop(self) -> None:
        if self.process is not None:
            self.process.stdin.close() if not self.process.stdin.closed else None
            self.process.kill()  # unshare takes its namespace with it
            self.process.wait()
            self.process.stdout.close()
            self.process = None
            self.sent.clear()
        self.folder.with_suffix(".log").unlink(missing_ok=True)
