"""Training runs that can be watched and stopped while they run: in threads of their own, a step each by turns.

A cell that trains keeps the kernel busy, and a busy kernel hears no button. So each run has a thread, and the kernel
stays free. Only one of them works at a time, from one step to the next, and each takes its own state of the random
generators along: a raced run computes, bit for bit, what it computes alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from threading import Condition, Event, Thread

from lora_course.device import choose_device
from lora_course.training.checkpoint import random_state, restore_random_state
from lora_course.training.history import EvaluationRow, History, StepRow


@dataclass
class Run:
    """What is known of a run so far.

    losses, norms: of step 1, 2, ... (nats; length of the gradient before clipping).
    accuracies: (step, share that is right).
    state: "ready", "starting", "running", "finished", "stopped" or "failed: ..." with what was raised.
    """

    name: str
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    accuracies: list[tuple[int, float]] = field(default_factory=list)
    state: str = "ready"

    @classmethod
    def of(cls, name: str, history: History) -> Run:
        """A run that is over."""
        rows, evaluations = history.steps, history.evaluations
        accuracies = [(row.step, row.metrics["accuracy"]) for row in evaluations if "accuracy" in row.metrics]
        return cls(name, [row.loss for row in rows], [row.grad_norm for row in rows], accuracies, "finished")


class Watch:
    """A callback for `fit` that notes every step and evaluation in a Run, hands over to the others, and can stop it."""

    def __init__(self, run: Run, turns: Turns, stop: Event, changed: Callable[[], None]):
        self.run, self._turns, self._stop, self._changed = run, turns, stop, changed

    def __call__(self, row: StepRow) -> str | None:
        self.run.state = "running"
        self.run.losses.append(row.loss)
        self.run.norms.append(row.grad_norm)
        self._changed()
        self._turns.pass_on(self.run.name)
        return "stop" if self._stop.is_set() else None

    def evaluated(self, row: EvaluationRow) -> None:
        if "accuracy" in row.metrics:
            self.run.accuracies.append((row.step, row.metrics["accuracy"]))
            self._changed()


class Turns:
    """Lets one of several threads work at a time, in order, with random generators that the others do not touch."""

    def __init__(self, names: Iterable[str]):
        self._order, self._next, self._device = deque(names), Condition(), choose_device()

    def take(self, me: str) -> None:
        with self._next:
            self._next.wait_for(lambda: self._order[0] == me)

    def pass_on(self, me: str) -> None:
        state = random_state(self._device)
        with self._next:
            self._order.rotate(-1)
            self._next.notify_all()
            self._next.wait_for(lambda: self._order[0] == me)
        restore_random_state(state, self._device)

    def leave(self, me: str) -> None:
        with self._next:
            self._order.remove(me)
            self._next.notify_all()


class Race:
    """Several runs side by side.

    entrants: name -> a function that is given a Watch and trains with it among its callbacks.
    changed(): called, in the thread that works, after every step, evaluation and end of a run.
    """

    def __init__(self, entrants: Mapping[str, Callable[[Watch], object]], changed: Callable[[], None]):
        self.runs = {name: Run(name, state="starting") for name in entrants}
        self._changed, self._stop, self._errors = changed, Event(), []
        turns = Turns(entrants)
        self._threads = [
            Thread(target=self._run, args=(self.runs[name], train, turns), daemon=True)
            for name, train in entrants.items()
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, run: Run, train: Callable[[Watch], object], turns: Turns) -> None:
        turns.take(run.name)
        try:
            if not self._stop.is_set():
                train(Watch(run, turns, self._stop, self._changed))
            run.state = "stopped" if self._stop.is_set() else "finished"
        except Exception as error:
            run.state = f"failed: {type(error).__name__}: {error}"
            self._errors.append(error)
        finally:
            turns.leave(run.name)
            self._changed()

    @property
    def over(self) -> bool:
        return not any(run.state in ("starting", "running") for run in self.runs.values())

    def stop(self) -> None:
        """Ask all runs to end after the step that they are in. Returns at once."""
        self._stop.set()

    def wait(self) -> None:
        """Until all runs are over. Raises the first error of a run."""
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
