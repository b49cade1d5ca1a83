"""The process that grades: loads the judge once, then forks a child for each answer and watches it.

    python -m lora_course.teaching.grading.runner WORK isolated|open|alone HIDDEN...
reads one task a line (JSON, see `examine`) and answers {"result", "message"} a line. The child runs under limits, in a
session of its own, in an empty folder; when it is done or out of bounds, everything that it started is killed. Where
Python cannot fork ("alone"), this process judges one answer itself and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import selectors
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

import psutil

from lora_course.teaching.grading import sandbox
from lora_course.teaching.grading.examine import examine, warm
from lora_course.teaching.grading.sandbox import MIB, Limits

TICK = 0.05  # seconds between two looks at a running child
VERDICT_BYTES = 64_000
ANSWERS = "answer"


def main() -> None:
    work, isolated, alone = Path(sys.argv[1]), sys.argv[2] == "isolated", sys.argv[2] == "alone"
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isolated:
        sandbox.close_off(work, [Path(path) for path in sys.argv[3:]])
        (work / ANSWERS).mkdir()
    else:
        os.environ.pop(sandbox.REAL_HOME)
        sandbox.adopt_orphans()
    _say(replies, {"ready": True})
    warmed: set[str] = set()
    for line in sys.stdin:
        task = json.loads(line)
        try:
            if task["lesson"] not in warmed:
                _warm(task["all_steps"], work, isolated)
                warmed.add(task["lesson"])
            result, message = examine(task) if alone else run(task, work, isolated)
        except Exception as error:
            result, message = "error", f"the grader itself failed: {type(error).__name__}: {error}"
        _say(replies, {"result": result, "message": message})
        if alone:
            os._exit(0)  # whatever the answer left behind in here


def _warm(steps: list[dict[str, str]], work: Path, isolated: bool) -> None:
    if isolated:
        sandbox.writable(work, True)
    warm(steps)
    if isolated:
        sandbox.writable(work, False)


def _say(replies: TextIO, what: dict[str, Any]) -> None:
    replies.write(json.dumps(what) + "\n")
    replies.flush()


def run(task: dict[str, Any], work: Path, isolated: bool) -> tuple[str, str]:
    """Forks, watches, cleans up; returns what came out."""
    limits = Limits(**task["limits"])
    if isolated:
        home = work / ANSWERS
        sandbox.fresh_folder(home, limits.disk)
    else:
        home = Path(tempfile.mkdtemp(dir=work))
    verdict_in, verdict_out = os.pipe()
    output_in, output_out = os.pipe()
    nonce = secrets.token_hex(16)
    try:
        child = os.fork()
        if child == 0:
            _child(task, limits, home, verdict_out, output_out, nonce, isolated)
        os.close(verdict_out)
        os.close(output_out)
        try:
            said, stopped, status = _watch(child, verdict_in, output_in, limits, isolated)
        finally:
            _kill_all(child, isolated)
        return stopped if stopped else _outcome(said, nonce, status)
    finally:
        os.close(verdict_in)
        os.close(output_in)
        sandbox.drop_folder(home) if isolated else shutil.rmtree(home, ignore_errors=True)


def _child(
    task: dict[str, Any], limits: Limits, home: Path, verdict: int, output: int, nonce: str, isolated: bool
) -> None:
    """Never returns. The verdict leaves by a pipe with an unforeseeable number, together with a word that only this
    function knows; a second process that learner's code forked says nothing."""
    try:
        os.setsid()
        os.nice(5)  # whoever watches must get its turn, however many there are of us
        os.chdir(home)
        os.environ |= dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME"), str(home))
        os.environ |= dict.fromkeys(("MPLCONFIGDIR", "LORA_COURSE_DATA", "HF_HOME"), str(home))
        tempfile.tempdir = None
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        channel = random.SystemRandom().randrange(100, 250)
        os.dup2(verdict, channel)
        os.closerange(3, channel)
        os.closerange(channel + 1, 4096)
        sandbox.restrict(limits, isolated)
        write, leave, pid_of, me, dumps = os.write, os._exit, os.getpid, os.getpid(), json.dumps
        result, message = examine(task)
        if pid_of() == me:
            write(channel, dumps([nonce, result, message]).encode()[:VERDICT_BYTES])
            leave(0)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}"[:500].encode(errors="replace"))
    finally:
        os._exit(1)


def _watch(
    child: int, verdict: int, output: int, limits: Limits, isolated: bool
) -> tuple[bytes, tuple[str, str] | None, int]:
    """Until the child ends or breaks a limit: (what it said on the verdict's pipe, the limit it broke, exit status)."""
    said, printed, status = b"", 0, 0
    deadline = time.monotonic() + limits.seconds
    with selectors.DefaultSelector() as pipes:
        for pipe in (verdict, output):
            os.set_blocking(pipe, False)
            pipes.register(pipe, selectors.EVENT_READ)
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            for key, _ in pipes.select(0 if ended else TICK):
                data = os.read(key.fd, 1 << 20)
                if not data:
                    pipes.unregister(key.fd)
                elif key.fd == output:
                    printed += len(data)
                elif len(said) < VERDICT_BYTES:
                    said += data
            if printed > limits.output:
                return said, ("error", f"printed more than {limits.output / MIB:g} MiB and was stopped"), 0
            if ended:
                return said, None, status
            if time.monotonic() > deadline:
                return said, ("error", f"ran longer than {limits.seconds:g} s and was stopped"), 0
            mine = _processes(isolated)
            if len(mine) > limits.processes:
                return said, ("error", f"started more than {limits.processes} processes and was stopped"), 0
            if _memory(mine) > limits.memory * MIB:
                return said, ("error", f"went over the memory limit of {limits.memory} MiB and was stopped"), 0


def _processes(isolated: bool) -> list[psutil.Process]:
    """The child and all that it started."""
    if not isolated:
        return _descendants()
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error):
            found += [psutil.Process(pid)] if pid != os.getpid() else []
    return found


def _memory(processes: list[psutil.Process]) -> int:
    """Bytes that they hold beyond what each shares with us, whose copy it is."""
    shared, total = psutil.Process().memory_info().rss, 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += max(0, process.memory_info().rss - shared)
    return total


def _descendants() -> list[psutil.Process]:
    try:
        return psutil.Process().children(recursive=True)
    except psutil.Error:
        return []


def _kill_all(child: int, isolated: bool) -> None:
    """Everything that the child started. As first process of a namespace we can kill all others in it at one stroke;
    elsewhere the group and the tree are killed again and again until nothing of them is left."""
    for _ in range(200):
        if isolated:
            _signal(-1)
        else:
            _signal(-child)
            for process in _descendants():
                _signal(process.pid)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _signal(pid: int) -> None:
    """SIGKILL to a process, to a group (negative), or to all others in our namespace (-1)."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def _outcome(said: bytes, nonce: str, status: int) -> tuple[str, str]:
    """The one message with the right word; anything else on the pipe was not written by the judge."""
    if not said:
        number = os.waitstatus_to_exitcode(status)
        how = f"by signal {signal.Signals(-number).name}" if number < 0 else f"with exit code {number}"
        return "error", f"the answer's process ended {how} before the check had finished"
    try:
        word, result, message = json.loads(said)
        if word != nonce:
            raise ValueError
    except (ValueError, TypeError):
        return "error", "tampered: something else was written where the verdict goes"
    return result, message


if __name__ == "__main__":
    main()
