"""What it takes to keep prompts of finished rows where they can't rest in cells."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from scope_cpp.engine.budget import format_bytes, parse_budget
from scope_cpp.engine.forecast import Forecast
from scope_cpp.engine.kv_types import bytes_per_cell
from scope_cpp.engine.memory import host_free_memory
from scope_cpp.engine.parallel.prefixes import LEAST
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import UsageError

# from a number of cells
OfCells = Callable[[int], int]
# of the main memory that is free, where nothing else is asked for
_SHARE = 4


@dataclass(frozen=True)
class Copies:
    """Copies of sequences in main memory, counted in the cells that would take as much.

    Attributes
    ----------
    per_cell
        Bytes of a cell.
    beside
        Bytes of the windows and recurrent states of a sequence, at most.
    free
        Bytes of main memory that are free.
    counted
        Whether they lie where the cells do; on a GPU they don't.
    """

    per_cell: int
    beside: int
    free: int
    counted: bool = True

    @classmethod
    def of(
        cls, forecast: Forecast, settings: Settings, n_parallel: int, parts: int = 1
    ) -> Copies | None:
        """Return what copies of a model's sequences take; ``None`` where prompts rest in cells.

        So many `parts` of the machine's memory are taken, this one of them.
        """
        model = forecast.model
        if not model.has_beside:
            return None
        found = forecast.of_run(settings, settings.n_batch, bounded=False, n_parallel=n_parallel)
        per_cell = bytes_per_cell(model, settings.type_k, settings.type_v)
        counted = forecast.where_cells_lie(found, settings) == found.total
        return cls(per_cell, found.fixed // n_parallel, host_free_memory() // parts, counted)

    def within(self, cells: str | None) -> Copies:
        """As if no more were free than what all is to fit into, where `cells` are memory."""
        with suppress(UsageError):  # said where they are worked out
            parsed = parse_budget(cells)
            if parsed.kind == "bytes":
                return replace(self, free=min(self.free, int(parsed.value)))
        return self

    def cells(self, n_tokens: int, n: int) -> int:
        """Cells in whose memory `n` copies fit that have so many tokens together."""
        return n_tokens + n * -(-self.beside // self.per_cell)

    @property
    def least(self) -> int:
        """Cells in whose memory one copy fits."""
        return self.cells(LEAST, 1)

    def usual(self, n_tokens: int, n: int) -> int:
        """As `cells`, or fewer, within a quarter of what is free; 0 where that holds no copy."""
        n_cells = min(self.cells(n_tokens, n), self.free // _SHARE // self.per_cell)
        return n_cells if n_cells >= self.least else 0

    def check(self, flag: str, text: str, n_cells: int) -> None:
        """Refuse memory that is not there, or in which no copy has room.

        Raises
        ------
        UsageError
            If it is.
        """
        size = format_bytes
        if n_cells * self.per_cell > self.free:
            raise UsageError(
                f"{flag} {text} is {size(n_cells * self.per_cell)} of main memory, "
                f"{size(self.free)} are free: give less"
            )
        if 0 < n_cells < self.least:
            raise UsageError(
                f"{flag} {text}: with its windows and recurrent states a single prompt may take "
                f"{size(self.least * self.per_cell)}, or {self.least} cells: give more, or 0"
            )

    def added(self, taken: OfCells, rest: OfCells) -> OfCells:
        """Return what tells the bytes that so many cells take, with copies as large as `rest`."""
        per_cell = self.per_cell if self.counted else 0
        return lambda n_cells: taken(n_cells) + per_cell * rest(n_cells)
