"""What ``scope eval`` shows on a terminal: progress with the time left, tables, Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from . import terminal
from .interrupt import INTERRUPTED
from .time_left import TimeLeft, duration

if TYPE_CHECKING:
    from scope_cpp.eval.progress import Progress, Status
    from scope_cpp.eval.sample import Stop
    from scope_cpp.table import Column


_BETWEEN_LINES = 30.0  # seconds
_BETWEEN_FRAMES = 0.1
_NOTES = (
    "stopping after the samples that are running; again: at once, without them",
    "stopping",
)


@contextlib.contextmanager
def ctrl_c(stop: Stop) -> Iterator[None]:
    """Let Ctrl-C ask for the end of a run: once softly, twice at once; then the process ends."""

    def arrived(number: int, frame: FrameType | None) -> None:
        stop.asked += 1
        if stop.asked > len(_NOTES):
            os._exit(INTERRUPTED)
        terminal.note(_NOTES[stop.asked - 1])

    before = signal.signal(signal.SIGINT, arrived)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Show on stderr how far a run is: a bar on a terminal, else a line now and then."""
    if not terminal.is_terminal():
        yield Lines(terminal.note)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        BarColumn(bar_width=20),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        left, every = TimeLeft(time.perf_counter), Throttle(_BETWEEN_FRAMES, time.perf_counter)

        def advance(status: Status) -> None:
            line = progress_line(status, left(status.done, status.n_all))
            if every() or status.n_done == status.n_all:
                bar.update(task, total=status.n_all, completed=status.done, description=line)

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
        self._write, self._left = write, TimeLeft(clock)
        self._every = Throttle(_BETWEEN_LINES, clock)

    def __call__(self, status: Status) -> None:
        """Take note; write a line if the last one is long ago."""
        left = self._left(status.done, status.n_all)
        if self._every():
            self._write(progress_line(status, left))


class Throttle:
    """Says yes once in a while; not before the first while is over."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds, self._clock = seconds, clock
        self._last = clock()

    def __call__(self) -> bool:
        """Return whether it is time again."""
        now = self._clock()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


def progress_line(status: Status, left: float | None) -> str:
    """Return what is done, what is being written, and the time that is left."""
    parts = [f"{status.n_done}/{status.n_all} samples"]
    if status.running:
        first, more = status.running[0], len(status.running) - 1
        what = f"{first.item} with {first.row}: "
        if first.n_tokens:
            what += f"{first.n_tokens:,} of at most {first.n_most:,} tokens"
        else:
            what += "reading its prompt"
        parts.append(what + (f" (and {more} more at once)" if more else ""))
    if left is not None:
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)


def is_screen() -> bool:
    """Whether tables are drawn on stdout instead of written as Markdown."""
    return terminal.shows_stdout()


def draw(columns: Sequence[Column], records: Sequence[dict[str, Any]]) -> None:
    """Draw a table on stdout."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE, pad_edge=False)
    for i, column in enumerate(columns):
        drawn.add_column(Text(column.title), justify="right" if i else "left")
    for record in records:
        drawn.add_row(*(Text(column.cell(record)) for column in columns))
    Console().print(drawn)
