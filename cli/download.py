"""Models asked for by name: a bar on a terminal while they are downloaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import terminal

if TYPE_CHECKING:
    from scope_cpp.engine.catalog import Progress


def known_model(name: str, *, offline: bool) -> str:
    """Return the path of a model of the catalogue, downloaded unless it is there already."""
    from scope_cpp.engine.catalog import fetch

    with _bar() as progress:
        return str(fetch(name, offline=offline, notify=terminal.note, progress=progress))


@contextlib.contextmanager
def _bar() -> Iterator[Progress | None]:
    """Yield what draws the bar on stderr; ``None`` where that is no terminal."""
    if not terminal.is_terminal():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = BarColumn(bar_width=30), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, whole: bar.update(task, completed=done, total=whole)
