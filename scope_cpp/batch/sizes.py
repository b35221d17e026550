"""How many rows at once, and in how many cells: by what the rows may need, and what is free."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from scope_cpp.batch.asked import MOST_ROWS, asked_cells, asked_prefix
from scope_cpp.batch.requests import Requests
from scope_cpp.batch.rows import Row
from scope_cpp.engine import budget as dial
from scope_cpp.engine.budget import format_bytes
from scope_cpp.engine.forecast import Forecast
from scope_cpp.engine.length import longest_text
from scope_cpp.engine.memory import free_memory
from scope_cpp.engine.parallel.cells import taken as taken_by_rows
from scope_cpp.engine.parallel.copies import Copies
from scope_cpp.engine.parallel.demand import Room, assess
from scope_cpp.engine.settings import CHAT_CELLS
from scope_cpp.errors import ScopeError

# Of so many of the longest rows with the same options the cells are worked out
_LOOKED_AT = 256
_GROUPS = 64

# Copies of what rows begin with: one of it, and one of what takes its place
_COPIES = 2


@dataclass(frozen=True)
class Census:
    """What a file of rows comes to.

    Attributes
    ----------
    n_rows
    cells
        Most cells that one of the longest rows may need; see `unknown` where that can't be known.
    prompt
        Tokens of the longest of their prompts.
    """

    n_rows: int | None = None
    cells: int = CHAT_CELLS
    prompt: int = CHAT_CELLS

    @classmethod
    def unknown(cls, requests: Requests) -> Census:
        """Return that of rows that can't be looked at before: none is longer than a text may be."""
        longest = longest_text(requests.defaults.settings, requests.model)
        cells = CHAT_CELLS if longest is None else min(CHAT_CELLS, longest)
        return cls(cells=cells, prompt=cells)


@dataclass(frozen=True)
class Layout:
    """Rows at once, their cells, and those of them that prompts may rest in."""

    n_parallel: int
    n_cells: int
    prefix_cells: int


class Longest:
    """Keeps the longest rows of those that pass by, of each set of options."""

    def __init__(self) -> None:
        self.n_rows = 0
        self._groups: dict[str, list[tuple[int, int, Row]]] = {}

    def add(self, row: Row) -> None:
        """Look at a row."""
        self.n_rows += 1
        if row.error is not None:
            return
        key = repr((row.options.n_predict, sorted(row.options.settings.items())))
        if key not in self._groups and len(self._groups) >= _GROUPS:
            key = ""
        group = self._groups.setdefault(key, [])
        push = heapq.heappush if len(group) < _LOOKED_AT else heapq.heappushpop
        push(group, (_length(row), row.index, row))

    def rows(self) -> Iterable[Row]:
        """Return the longest ones."""
        return [row for group in self._groups.values() for _, _, row in group]

    def census(self, requests: Requests) -> Census:
        """Work out what the rows come to; those that are wrong are left out."""
        room = Room(sys.maxsize, 1, requests.defaults.settings)
        cells = prompt = 1
        for row in self.rows():
            try:
                request = requests.of(row)
                cells = max(cells, assess(request, requests.model, room).n_cells)
            except ScopeError:
                continue  # the engine refuses it by name
            prompt = max(prompt, len(request.prompt))
        return Census(self.n_rows, cells, prompt)


@dataclass(frozen=True)
class Memory:
    """What there is room for: free bytes, those that so many cells take, and copies of prompts."""

    free: int
    taken: Callable[[int], int] = int
    copies: Copies | None = None

    @classmethod
    @contextmanager
    def of(cls, requests: Requests, n_parallel: int, parts: int = 1) -> Iterator[Memory]:
        """Give a part of the memory that is free now, where the cells of so many rows will lie.

        Raises
        ------
        ScopeError
            If there is none for a single one.
        """
        model, settings = requests.model, requests.defaults.settings
        free = free_memory(gpu=settings.offload_kqv and model.offloaded) // parts
        with Forecast(model) as forecast:
            taken = taken_by_rows(forecast, settings, n_parallel)
            if free < taken(1):
                raise ScopeError(
                    f"{format_bytes(free)} of memory are free, a single cell takes "
                    f"{format_bytes(taken(1))} with its buffers: end other programs"
                )
            yield cls(free, taken, Copies.of(forecast, settings, n_parallel, parts))

    def cells(self, asked: dial.Budget, most: int | None = None) -> int:
        """Return the cells that a flag's value stands for, see `scope_cpp.engine.budget`.

        `most` are those that are of any use.

        Raises
        ------
        UsageError
            If there is no memory for them.
        """
        if asked.value == 0 and asked.kind != "auto":
            return 0
        return dial.cells(
            asked, n_prompt=0, n_predict=most, taken=self.taken, free_memory=self.free
        )


def layout(
    census: Census,
    memory: Memory,
    *,
    n_parallel: int | None = None,
    cells: str | None = None,
    prefix_cells: str | None = None,
) -> Layout:
    """Return how many rows run at once in how many cells.

    Parameters
    ----------
    census, memory
        Half of the memory is taken at most, if `cells` does not say more.
    n_parallel
        ``None``: as many as fit, `MOST_ROWS` at most.
    cells
        ``None``: what so many rows may need.
    prefix_cells
        ``None``: the longest prompt's; where they are copied, with windows and states for two.

    Raises
    ------
    UsageError
        If `cells` are no number of cells, or more than there is memory for.
    """
    most_rows = n_parallel or most_at_once(census)
    rest, copies = _rest(census, memory, cells, prefix_cells), memory.copies
    if copies is not None:
        memory = replace(memory, taken=copies.added(memory.taken, lambda n_cells: rest))
    half = memory.cells(asked_cells("auto"), most_rows * census.cells)
    asked = None if cells is None else memory.cells(asked_cells(cells))
    if n_parallel is None:
        n_parallel = max(1, min(most_rows, (asked or half) // census.cells))
    n_cells = asked
    if n_cells is None:
        one = dial.most_cells(memory.taken, memory.free, census.cells)
        n_cells = max(min(n_parallel * census.cells, half), one)
    return Layout(n_parallel, n_cells, min(rest, n_cells) if copies is None else rest)


def _rest(census: Census, memory: Memory, cells: str | None, prefix_cells: str | None) -> int:
    """Cells that prompts may rest in, or that take as much as copies of them may."""
    copies, asked = memory.copies, asked_prefix(prefix_cells)
    if copies is None:
        return census.prompt if prefix_cells is None else memory.cells(asked)
    if prefix_cells is None:
        return copies.within(cells).usual(census.prompt, _COPIES)
    per_cell = copies.per_cell
    rest = replace(memory, taken=lambda n_cells: n_cells * per_cell).cells(asked)
    copies.check(asked.name, prefix_cells, rest)
    return rest


def most_at_once(census: Census) -> int:
    """Rows that run at once at most, if nothing is said."""
    return min(MOST_ROWS, census.n_rows or MOST_ROWS)


def _length(row: Row) -> int:
    if row.messages is not None:
        return sum(len(message["content"]) for message in row.messages)
    return len(row.prompt or "")
