"""What goes between a client's request and the engine's thread: rows, and what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from scope_cpp.engine.generate import Stats
from scope_cpp.engine.parallel import Alternative, Event, Request
from scope_cpp.errors import ScopeError


@dataclass(frozen=True)
class Row:
    """A row that waits or runs.

    Attributes
    ----------
    key
        What the engine knows it by.
    client
        Whose it is: clients take turns.
    picture
        Whether its updates tell which cells are kept.
    """

    key: int
    client: Hashable
    request: Request
    picture: bool


@dataclass
class Update:
    """What became of a row since its client last looked.

    Attributes
    ----------
    texts, logprobs
        Of its tokens; see `Event`.
    stats, finish_reason, no_text
        Of the last of them; see `Response`.
    picture
        See `scope_cpp.serve.picture`, where it was asked for.
    error
        The row ended with this.
    cut
        The server ended it, because it shuts down.
    """

    texts: list[str] = field(default_factory=list)
    logprobs: list[tuple[Alternative, ...]] = field(default_factory=list)
    stats: Stats | None = None
    finish_reason: str | None = None
    no_text: str | None = None
    picture: dict[str, Any] | None = None
    error: ScopeError | None = None
    cut: bool = False

    @classmethod
    def of(cls, event: Event) -> Update:
        """What an event says."""
        response = event.response
        if response is None:
            return cls(error=event.error)
        told = [event.logprobs] if event.logprobs else []
        return cls([response.text], told, response.stats, response.finish_reason, response.no_text)

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return self.finish_reason is not None or self.error is not None or self.cut

    def add(self, later: Update) -> None:
        """Take in what came after it."""
        self.texts += later.texts
        self.logprobs += later.logprobs
        self.stats = later.stats or self.stats
        self.picture = (self.picture or {}) | (later.picture or {}) or None
        self.finish_reason, self.no_text = later.finish_reason, later.no_text
        self.error, self.cut = later.error, later.cut


class Ticket:
    """The rows of one client's request; iterate over it for what becomes of them.

    What comes while the client is slow is put together, so that little of it is held.

    Parameters
    ----------
    cancel
        Ends rows, by their keys.
    keys
        Of the rows, in the order of the answers.

    Yields
    ------
    index, update
        Until the last update of each row. `close` ends the rows that still run.
    """

    def __init__(self, cancel: Callable[[Sequence[int]], None], keys: Sequence[int]) -> None:
        self._cancel = cancel
        self._indices = {key: index for index, key in enumerate(keys)}
        self._updates: dict[int, Update] = {}
        self._some = asyncio.Event()

    def __aiter__(self) -> Ticket:
        return self

    async def __anext__(self) -> tuple[int, Update]:
        if not self._updates:
            if not self._indices:
                raise StopAsyncIteration
            self._some.clear()
            await self._some.wait()
        index = next(iter(self._updates))
        return index, self._updates.pop(index)

    def give(self, key: int, update: Update) -> None:
        """Take an update of one of the rows."""
        index = self._indices.pop(key) if update.last else self._indices[key]
        if index in self._updates:
            self._updates[index].add(update)
        else:
            self._updates[index] = update
        self._some.set()

    def close(self) -> None:
        """Cancel what still waits or runs."""
        keys, self._indices = list(self._indices), {}
        self._cancel(keys)
