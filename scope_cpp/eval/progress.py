"""How far a run is: samples that are done, and the tokens of those that are running."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Running:
    """A sample that is being read or written.

    Attributes
    ----------
    row, item
        Names.
    n_tokens
        Tokens of its output so far; 0 while the prompt is read.
    n_most
        Tokens that its output has at most.
    """

    row: str
    item: str
    n_tokens: int = 0
    n_most: int = 0


@dataclass(frozen=True)
class Status:
    """A moment of a run.

    Attributes
    ----------
    n_done, n_all
        Samples.
    running
        Those that are being worked on, the one that began first first.
    """

    n_done: int
    n_all: int
    running: tuple[Running, ...] = ()

    @property
    def done(self) -> float:
        """Samples that are done, with the share of each running one that is written."""
        return self.n_done + sum(one.n_tokens / one.n_most for one in self.running if one.n_most)


Progress = Callable[[Status], None]


class Tracker:
    """Tells a `Progress` of each token and of each sample, whichever thread they come from.

    Parameters
    ----------
    progress
        Is never called by two threads at once.
    n_done, n_all
        Samples at the beginning.
    """

    def __init__(self, progress: Progress, n_done: int, n_all: int) -> None:
        self._progress, self._n_done, self._n_all = progress, n_done, n_all
        self._running: dict[tuple[str, str], Running] = {}
        self._lock = threading.Lock()
        self._tell()

    def written(self, row: str, item: str, n_tokens: int, n_most: int) -> None:
        """Take note of how far a sample is."""
        with self._lock:
            self._running[row, item] = Running(row, item, n_tokens, n_most)
            self._tell()

    def ended(self, row: str, item: str, n_done: int) -> None:
        """Take note of the end of a sample, and of how many are done now."""
        with self._lock:
            self._running.pop((row, item), None)
            self._n_done = n_done
            self._tell()

    def _tell(self) -> None:
        self._progress(Status(self._n_done, self._n_all, tuple(self._running.values())))
