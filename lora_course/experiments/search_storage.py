"""Where a study lives, and what happens to trials whose machine has gone.

storage_at         a path or URL -> Optuna's storage: SQLite, any other database, or a journal file
queue_again        a trial's choices, waiting for whoever comes next
requeue_running    all that are running, when you know that nobody runs them
listen_to          trials of other processes: from now on at the latest, silence counts
StudySampler       Optuna's sampler, seeded anew for each place in the study: a resumed search draws what it would have
A database has heartbeats: while a trial runs, its process says so every few seconds. One that has been silent for three
times as long is marked failed by whichever process looks next, and its choices are queued again.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

MOST_TRIES = 3  # a trial that takes its process with it every time is given up
JOURNAL = (".journal", ".log")


def storage_at(where: str | Path | BaseStorage, heartbeat: int = 20) -> BaseStorage:
    """`search.db` is a SQLite file, `search.journal` (or .log) a journal file, anything with :// a database's URL.

    One machine: SQLite. Several that share a folder over a network: a journal file, since SQLite's locks are not safe
    there. Many: a database server, "postgresql+psycopg://user:password@host/name". A storage of Optuna's own is
    returned as it is. heartbeat: seconds between two, in databases; a journal file has none.
    Raises ValueError for a database that cannot be reached, or whose driver is not installed.
    """
    if isinstance(where, BaseStorage):
        return where
    if "://" not in str(where):
        path = Path(where)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in JOURNAL:
            lock = JournalFileOpenLock(str(path)) if os.name == "nt" else None  # where links need rights
            return JournalStorage(JournalFileBackend(str(path), lock))
        where = f"sqlite:///{path.as_posix()}"
    patient = {"connect_args": {"timeout": 60}} if str(where).startswith("sqlite") else {}
    for attempt in range(20):
        try:
            with quiet_optuna():
                storage = RDBStorage(
                    str(where),
                    engine_kwargs=patient,
                    heartbeat_interval=heartbeat,
                    grace_period=3 * heartbeat,
                    heartbeat_stale_trial_callback=queue_again,
                )
            return _one_writer_at_a_time(storage) if str(where).startswith("sqlite") else storage
        except ImportError:
            raise ValueError(
                f"the driver for {str(where).split(':')[0]} is not installed; for PostgreSQL it is psycopg, with a URL "
                "of postgresql+psycopg://"
            ) from None
        except SQLAlchemyError as error:
            if attempt == 19 or not (isinstance(error, IntegrityError) or "exist" in str(error)):
                raise ValueError(f"the study's database cannot be opened: {str(error).splitlines()[0]}") from error
        time.sleep(0.2)  # another process makes the same tables at this moment; next time they are there


def _one_writer_at_a_time(storage: RDBStorage) -> RDBStorage:
    """Lock SQLite from the beginning of a transaction.

    Optuna reads a trial's state and then writes it, and relies on SELECT FOR UPDATE, which SQLite has not: two
    processes would both take the same waiting trial (optuna issues 4002 and 4621).
    """

    @event.listens_for(storage.engine, "connect")
    def connect(connection, _):
        connection.isolation_level = None  # or Python's sqlite3 begins transactions on its own

    @event.listens_for(storage.engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.scoped_session.remove()
    storage.engine.dispose()  # connections from before know nothing of this
    return storage


def queue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Add a waiting trial with the choices that this one had made, unless it has been tried MOST_TRIES times."""
    tries = trial.user_attrs.get("tries", 1)
    if tries < MOST_TRIES:
        choices = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        study.enqueue_trial(choices, user_attrs={"retry_of": trial.number, "tries": tries + 1})


def requeue_running(study: optuna.Study) -> list[int]:
    """Mark every running trial failed and queue its choices again; returns their numbers.

    For when you know that no process works on the study: after a kill, with a journal file, or without the patience to
    wait for the heartbeats. A process that does work on it would find its result refused.
    """
    requeued = []
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        queue_again(study, trial)
        requeued.append(trial.number)
    return requeued


def listen_to(study: optuna.Study, numbers: set[int]) -> None:
    """Give these running trials a heartbeat in the name of their processes; where there are none, does nothing.

    A process may die after it took a trial and before its first heartbeat. Optuna finds silent only what has had one.
    """
    if isinstance(study._storage, BaseHeartbeat) and study._storage.get_heartbeat_interval():
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number in numbers:
                study._storage.record_heartbeat(trial._trial_id)


def is_abandoned(trial: FrozenTrial) -> bool:
    """Failed, but not by its own fault: its process was killed or interrupted, or there were enough trials already."""
    return trial.state == TrialState.FAIL and "error" not in trial.user_attrs


def place(study: optuna.Study, trial: Any) -> int:
    """How many trials that count were there before this one."""
    return sum(t.number < trial.number and not is_abandoned(t) for t in study.get_trials(deepcopy=False))


class StudySampler(BaseSampler):
    """kind: "tpe" or "random". What it draws depends on the seed, the trial's place and the results so far."""

    def __init__(self, kind: str, seed: int):
        self.kind, self.seed = kind, seed
        self.sampler: BaseSampler = self._seeded(0)

    def _seeded(self, number: int) -> BaseSampler:
        seed = (1_000_003 * self.seed + number) % 2**32
        return RandomSampler(seed=seed) if self.kind == "random" else TPESampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.sampler = self._seeded(place(study, trial))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space) -> dict[str, Any]:
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution) -> Any:
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Without Optuna's log lines (we record and say what fails) and its notes on experimental parts: heartbeats."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
