"""Which worker runs which row, when workers may die; knows neither Ray nor what a row asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

# A row whose workers died this often is given up. Before the last time it runs alone, so that no
# row is given up for what another one does.
MOST_DEATHS = 3


class Keyed(Protocol):
    """A row, as far as it matters here."""

    @property
    def key(self) -> str:
        """What tells it from all others."""


RowT = TypeVar("RowT", bound=Keyed)
RecordT = TypeVar("RecordT")


@dataclass(frozen=True)
class Answer(Generic[RecordT]):
    """What a worker says when it is ready for rows, or has died.

    Attributes
    ----------
    worker
        Its number, the same after it was started again.
    records
        What came of rows that it finished since its last answer, by their keys.
    death
        Why it is dead, in a few words; it answers again once it is back.
    """

    worker: int
    records: tuple[tuple[str, RecordT], ...] = ()
    death: str | None = None


class Fleet(Protocol[RowT, RecordT]):
    """Workers, numbered from 0; each takes rows only after it has answered."""

    def send(self, worker: int, rows: list[RowT]) -> None:
        """Give a worker more rows and let it go on; it answers soon after it finished any.

        It also answers, without a record, after a while in which it finished none.
        """

    def wait(self) -> list[Answer[RecordT]]:
        """Return answers, none if there was none for a while.

        Raises
        ------
        ScopeError
            If no worker is left.
        """


@dataclass
class _Held(Generic[RowT]):
    """What a worker has."""

    rows: dict[str, RowT] = field(default_factory=dict)
    alone: bool = False  # its row must be the only one


class Dispatch(Generic[RowT, RecordT]):
    """Rows on their way to one record each, however many workers die.

    Parameters
    ----------
    fleet
    n_workers
    most_held
        Rows that a worker holds at most.
    give_up
        Makes the record of a row whose workers died `MOST_DEATHS` times, of the last reason.
    """

    def __init__(
        self,
        fleet: Fleet[RowT, RecordT],
        n_workers: int,
        most_held: int,
        give_up: Callable[[RowT, str], RecordT],
    ) -> None:
        self._fleet, self._most_held, self._give_up = fleet, most_held, give_up
        self._held: list[_Held[RowT]] = [_Held() for _ in range(n_workers)]
        self._ready: set[int] = set()
        self._waiting = deque[RowT]()
        self._suspects = deque[RowT]()
        self._deaths: dict[str, int] = {}

    @property
    def room(self) -> int:
        """How many more rows keep all workers busy; 0 or less: none."""
        n_held = sum(len(held.rows) for held in self._held)
        return self._most_held * len(self._held) - n_held - self._n_waiting

    @property
    def busy(self) -> bool:
        """Whether any row has no record yet."""
        return self._n_waiting > 0 or any(held.rows for held in self._held)

    @property
    def _n_waiting(self) -> int:
        return len(self._waiting) + len(self._suspects)

    def submit(self, row: RowT) -> None:
        """Let a row wait for a worker."""
        self._waiting.append(row)

    def step(self) -> list[RecordT]:
        """Hand out what there is, wait a while for answers, return the records of new ones.

        Raises
        ------
        ScopeError
            See `Fleet.wait`.
        """
        for worker in sorted(self._ready):
            rows = self._take(self._held[worker])
            if rows or self._held[worker].rows:
                self._held[worker].rows.update({row.key: row for row in rows})
                self._ready.discard(worker)
                self._fleet.send(worker, rows)
        return [record for answer in self._fleet.wait() for record in self._hear(answer)]

    def _take(self, held: _Held[RowT]) -> list[RowT]:
        """Rows for a worker: no more than its part of what waits, so that none is left idle."""
        if not held.rows:
            held.alone = bool(self._suspects)
            if held.alone:
                return [self._suspects.popleft()]
        if held.alone:
            return []
        part = -(-len(self._waiting) // len(self._held))
        count = min(part, self._most_held - len(held.rows))
        return [self._waiting.popleft() for _ in range(count)]

    def _hear(self, answer: Answer[RecordT]) -> list[RecordT]:
        held = self._held[answer.worker]
        records = [record for key, record in answer.records if self._finish(held, key)]
        if answer.death is None:
            self._ready.add(answer.worker)
            return records
        self._ready.discard(answer.worker)
        self._held[answer.worker] = _Held()
        return records + [self._give_up(row, answer.death) for row in self._lose(held)]

    def _finish(self, held: _Held[RowT], key: str) -> bool:
        """Note that a row is done; False if it is not the worker's (any more)."""
        if held.rows.pop(key, None) is None:
            return False
        self._deaths.pop(key, None)
        return True

    def _lose(self, held: _Held[RowT]) -> list[RowT]:
        """Let the rows of a dead worker be run again; return those that are given up."""
        given_up, again = [], []
        for key, row in held.rows.items():
            deaths = self._deaths[key] = self._deaths.get(key, 0) + 1
            if deaths >= MOST_DEATHS:
                del self._deaths[key]
                given_up.append(row)
            elif deaths == MOST_DEATHS - 1:
                self._suspects.append(row)
            else:
                again.append(row)
        self._waiting.extendleft(reversed(again))
        return given_up
