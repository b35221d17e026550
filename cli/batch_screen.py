"""What ``scope batch`` shows while it runs: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, BinaryIO

from . import terminal
from .interrupt import INTERRUPTED
from .time_left import duration

if TYPE_CHECKING:
    from scope_cpp.batch.job import Progress
    from scope_cpp.batch.run import Outcome
    from scope_cpp.batch.runner import Status


_BETWEEN_LINES = 10.0  # seconds
_BETWEEN_FRAMES = 0.1


@contextlib.contextmanager
def ctrl_c() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C ask for the end, SIGTERM too; a second one ends the process. Gives whether."""
    asked = False

    def arrived(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(INTERRUPTED)
        asked = True
        terminal.note("stopping after this step; again: at once")

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, arrived) for number in numbers]
    try:
        yield lambda: asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def stdin() -> BinaryIO | None:
    """Return stdin's bytes; ``None`` if there is none, or nothing is piped in.

    A file of its own: Python must not find the thread that reads it in sys.stdin when it ends.
    """
    if sys.stdin is None or sys.stdin.isatty():
        return None
    try:
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    except (OSError, ValueError):  # not a file: a test's buffer
        return sys.stdin.buffer


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Show how far it is on stderr."""
    if not terminal.is_terminal():
        yield Lines(terminal.note)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(bar_width=20),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)
        rate = Rate()
        drawn = 0.0

        def advance(outcome: Outcome, total: int | None, status: Status) -> None:
            nonlocal drawn
            now = time.perf_counter()
            if now - drawn < _BETWEEN_FRAMES:
                return
            drawn = now
            text = rate.line(outcome, total, status, now)
            bar.update(task, total=total, completed=outcome.n_done, description=text)

        yield advance


class Lines:
    """Progress as plain lines, not too many.

    Parameters
    ----------
    write
        Takes a line.
    clock
        Seconds.
    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._write, self._clock = write, clock
        self._rate = Rate()
        self._last: float | None = None

    def __call__(self, outcome: Outcome, total: int | None, status: Status) -> None:
        """Take note; write a line if the last one is long ago."""
        now = self._clock()
        line = self._rate.line(outcome, total, status, now)
        if self._last is None:
            self._last = now
        elif now - self._last >= _BETWEEN_LINES:
            self._last = now
            self._write(line)


class Rate:
    """Speed and time left, from the first call on."""

    def __init__(self) -> None:
        self._began: tuple[float, int, int] | None = None

    def line(self, outcome: Outcome, total: int | None, status: Status, now: float) -> str:
        """Return rows done, tokens per second, time left, and cells in use."""
        ended = outcome.n_ok + outcome.n_failed
        if self._began is None:
            self._began = now, ended, status.n_generated
        seconds = now - self._began[0]
        of = "" if total is None else f"/{total}"
        parts = [f"{outcome.n_done}{of} rows"]
        if outcome.n_failed:
            parts.append(f"{outcome.n_failed} failed")
        if seconds > 0:
            parts.append(f"{(status.n_generated - self._began[2]) / seconds:.1f} t/s")
            rows = ended - self._began[1]
            if total is not None and rows:
                parts.append(f"{duration((total - outcome.n_done) * seconds / rows)} left")
        parts.append(f"cells {status.cells_used}/{status.n_cells}")
        parts.append(f"{status.n_running} running")
        return ", ".join(parts)
