"""The input: a file, which is read as often as needed, or a stream, which is read as it comes."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol

from scope_cpp.batch.formats import open_input, read_rows
from scope_cpp.batch.rows import Row

# Rows of a stream that are read before they are needed
_READ_AHEAD = 16
_PATIENCE = 0.2  # seconds; then the driver looks whether it shall stop


class Feed(Protocol):
    """Rows one after the other, for the driver."""

    @property
    def ended(self) -> bool:
        """Whether there are no more."""

    def take(self, wait: bool) -> Row | None:
        """Return the next row; ``None`` if it is not there yet, or there are no more.

        Parameters
        ----------
        wait
            For a short while, if it is not there yet.
        """


class FileSource:
    """Rows of a file; each iteration reads it again, line by line.

    Parameters
    ----------
    path : Path
    form : str
        See `scope_cpp.batch.formats.find_format`.
    """

    def __init__(self, path: Path, form: str) -> None:
        self.path, self.form = path, form

    def __iter__(self) -> Iterator[Row]:
        with open_input(self.path) as file:
            yield from read_rows(file, self.form)


def chosen(rows: Iterable[Row], limit: int | None, shuffle_seed: int | None) -> Iterator[Row]:
    """Yield the first `limit` rows; shuffled before if there is a seed, which takes all to memory.

    The order depends on the seed and the number of rows only.
    """
    if shuffle_seed is not None:
        shuffled = list(rows)
        random.Random(shuffle_seed).shuffle(shuffled)
        rows = shuffled
    return islice(rows, limit)


class RowFeed:
    """Rows that are there when they are asked for."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = iter(rows)
        self.ended = False

    def take(self, wait: bool) -> Row | None:
        """See `Feed`."""
        row = next(self._rows, None)
        self.ended = row is None
        return row


class StreamFeed:
    """Rows of a stream, read by a thread: a slow writer keeps no other row waiting.

    Parameters
    ----------
    file
        A pipe, a terminal.
    form
        See `scope_cpp.batch.formats.find_format`.
    limit
        Most rows.
    """

    def __init__(self, file: BinaryIO, form: str, limit: int | None = None) -> None:
        self._read: queue.Queue[Row | Exception | None] = queue.Queue(_READ_AHEAD)
        self.ended = False
        self._thread = threading.Thread(
            target=self._work, args=(islice(read_rows(file, form), limit),), daemon=True
        )
        self._thread.start()

    def _work(self, rows: Iterator[Row]) -> None:
        try:
            for row in rows:
                self._read.put(row)
            self._read.put(None)
        except Exception as err:
            self._read.put(err)

    def take(self, wait: bool) -> Row | None:
        """See `Feed`."""
        with contextlib.suppress(queue.Empty):
            found = self._read.get(timeout=_PATIENCE) if wait else self._read.get_nowait()
            if isinstance(found, Exception):
                self.ended = True
                raise found
            self.ended = found is None
            return found
        return None
