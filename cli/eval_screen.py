"""What ``scope eval`` shows on a terminal: progress with the time left, tables, Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from . import terminal
from .interrupt import INTERRUPTED

if TYPE_CHECKING:
    from scope_cpp.eval.sample import Stop
    from scope_cpp.table import Column


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
def progress() -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr if that is a terminal; give what to call with done and total."""
    if not terminal.is_terminal():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = None

        def advance(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task("samples", total=total, completed=done)
            bar.update(task, completed=done)

        yield advance


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
