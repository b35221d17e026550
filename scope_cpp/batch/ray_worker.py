"""A worker: the runner of another process, which hears and answers by calls."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from scope_cpp import __version__
from scope_cpp.batch.record import Record
from scope_cpp.batch.rows import Row
from scope_cpp.batch.runner import EngineRunner, Plan, Status
from scope_cpp.engine.session_model import identify
from scope_cpp.engine.threads import default_threads
from scope_cpp.errors import ScopeError
from scope_cpp.wording import speak_of_flags

# How long a worker works without an answer: then there is news for the progress line, and Ctrl-C
# and new rows are not kept waiting
TURN_SECONDS = 0.5


@dataclass(frozen=True)
class Hello:
    """What a worker says once it is ready, or why it can't be.

    Attributes
    ----------
    host
        Name of its machine.
    identity
        Of its model, see `identify`.
    error
        One line; ``None`` if it is ready.
    version
        Of scope-cpp there.
    """

    host: str
    identity: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    version: str = __version__


@dataclass(frozen=True)
class Turn:
    """What came of a call.

    Attributes
    ----------
    records
        Of rows that are done, by their keys.
    status
        See `Status`; since the worker was started.
    warnings
        One line each.
    error
        Why the worker can't go on at all.
    """

    records: tuple[tuple[str, Record], ...]
    status: Status
    warnings: tuple[str, ...] = ()
    error: str | None = None


class Worker:
    """What Ray makes an actor of: one engine, called by one caller."""

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._warnings: list[str] = []
        self._keys: dict[int, str] = {}
        self._runner: EngineRunner | None = None

    def start(self, plan: Plan, n_sharing: int) -> Hello:
        """Load the model.

        Parameters
        ----------
        plan
        n_sharing
            Workers that share this machine's cores, where the plan leaves the threads open.
        """
        speak_of_flags()
        settings = plan.defaults.settings
        threads = settings.n_threads or max(1, default_threads() // n_sharing)
        settings = replace(
            settings, n_threads=threads, n_threads_batch=settings.n_threads_batch or threads
        )
        plan = replace(plan, defaults=replace(plan.defaults, settings=settings))
        try:
            model, self._runner = plan.open(self._opened, self._warnings.append)
            return Hello(platform.node(), identify(model))
        except ScopeError as err:
            return Hello(platform.node(), error=" ".join(str(err).split()))

    def turn(self, rows: list[Row]) -> Turn:
        """Take rows and work until any row is done, or for `TURN_SECONDS`."""
        runner = self._runner
        if runner is None:
            raise RuntimeError("the worker was not started")
        for row in rows:
            self._keys[row.index] = row.key
            runner.submit(row)
        end = time.monotonic() + TURN_SECONDS
        records: list[Record] = []
        error = None
        try:
            while runner.busy and not records and time.monotonic() < end:
                records = runner.step()
        except ScopeError as err:
            error = " ".join(str(err).split())
        done = tuple((self._keys.pop(record.index), record) for record in records)
        warnings, self._warnings[:] = tuple(self._warnings), []
        return Turn(done, runner.status(), warnings, error)
