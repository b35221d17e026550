"""Records in the order of the input."""

from __future__ import annotations

import heapq
from typing import Protocol

from scope_cpp.batch.record import Record
from scope_cpp.batch.rows import Row
from scope_cpp.batch.shapes import Shape, line_of
from scope_cpp.batch.sink import Sink


class Lines(Sink, Protocol):
    """A sink that can keep a line until its turn comes."""

    shape: Shape
    kept: dict[str, bytes]

    def put_line(self, line: bytes) -> None:
        """Write a record's line."""

    def keep_line(self, line: bytes) -> None:
        """Make a line safe that is early."""

    def forget_kept(self) -> None:
        """All lines that were early are written."""


class InOrder:
    """Records go to `inner` when all those before them did; a `Sink`.

    Rows that are not chosen have no turn: what comes behind them is written by `finish`.
    """

    def __init__(self, inner: Lines) -> None:
        self._inner = inner
        self._turn = 0
        self._early: list[tuple[int, bytes]] = []

    def has(self, row: Row) -> bool:
        """See `Sink`."""
        return self._inner.has(row)

    def skip(self, row: Row) -> bool:
        """See `Sink`."""
        self._take(row.index, self._inner.kept.pop(row.key, b""))
        return self._inner.skip(row)

    def put(self, record: Record) -> None:
        """See `Sink`."""
        line = line_of(self._inner.shape, record)
        if record.index != self._turn:
            self._inner.keep_line(line)
        self._take(record.index, line)

    def finish(self) -> None:
        """See `Sink`."""
        while self._early:
            self._write(heapq.heappop(self._early)[1])
        for line in self._inner.kept.values():
            self._write(line)
        self._inner.kept.clear()
        self._inner.forget_kept()

    def _take(self, index: int, line: bytes) -> None:
        heapq.heappush(self._early, (index, line))
        had = len(self._early) > 1
        while self._early and self._early[0][0] == self._turn:
            self._write(heapq.heappop(self._early)[1])
            self._turn += 1
        if had and not self._early and not self._inner.kept:
            self._inner.forget_kept()

    def _write(self, line: bytes) -> None:
        if line:
            self._inner.put_line(line)
