"""Points of a sequence to go back to, and whether what lies before them is still the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.cache.stats import CacheStats
from scope_cpp.policies.scores.foresight import Asked

# Marks that keep a copy of the scores: two turns of a conversation
WITH_SCORES = 4
# Marks that keep windows and recurrent states, of up to some hundred MiB: one turn
WITH_BESIDE = 2


class Beside(NamedTuple):
    """Windows and recurrent states of a sequence as they were after its first `n_past` tokens."""

    n_past: int
    data: NDArray[np.uint8]


@dataclass
class Mark:
    """A point of a sequence to which `rewind.return_to` returns.

    Attributes
    ----------
    n_past
        Tokens before it.
    counters, stats
        The cache's numbers there.
    scores
        What the ledger had; ``None`` once later marks took their place.
    asked
        The prompt's queries that weighed the output after it, if any did.
    intact
        Whether all rows from before it are where they were.
    beside
        Windows and recurrent states, where there are any: as they were here, or before the last
        batch before it.
    """

    n_past: int
    counters: tuple[int, ...]
    stats: CacheStats
    scores: NDArray[Any] | None
    asked: Asked | None = None
    intact: bool = True
    beside: Beside | None = None


@dataclass
class Marks:
    """Marks of one sequence that are watched over, in its order."""

    all: list[Mark] = field(default_factory=list)

    def keep(self, marks: Sequence[Mark]) -> None:
        """Watch over these and no others; all but the latest lose their scores."""
        self.all = list(marks)
        for old in self.all[:-WITH_SCORES]:
            old.scores = old.asked = None
        for old in self.all[:-WITH_BESIDE]:
            old.beside = None

    @property
    def n_bytes(self) -> int:
        """Bytes of the windows and recurrent states that are kept."""
        kept = {id(mark.beside): mark.beside for mark in self.all if mark.beside is not None}
        return sum(beside.data.nbytes for beside in kept.values())

    def beside(self, n_past: int) -> Beside | None:
        """Windows and recurrent states as they were at a position, if some mark has them."""
        kept = (mark.beside for mark in reversed(self.all) if mark.beside is not None)
        return next((beside for beside in kept if beside.n_past == n_past), None)

    def add(self, mark: Mark) -> None:
        """Watch over one more, the last of the sequence."""
        self.keep([*self.all, mark])

    def disturb(self, label: int) -> None:
        """Note that the cell with this label, the first of some, was freed or overwritten."""
        for mark in self.all:
            mark.intact &= mark.n_past <= label

    def forget_after(self, n_past: int) -> None:
        """Drop the marks after `n_past`: they are worthless."""
        self.disturb(n_past)
        self.all = [mark for mark in self.all if mark.n_past <= n_past]

    def forget_scores(self) -> None:
        """No mark can be returned to any more."""
        for mark in self.all:
            mark.scores = None
