"""Starts the rows and lets them take turns, strictly one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from scope_cpp.bench.process import RowDied, RowRefused, Worker
from scope_cpp.bench.row import Compute, Row
from scope_cpp.engine.budget import format_bytes
from scope_cpp.engine.context_params import round_up
from scope_cpp.engine.memory import free_memory

Note = Callable[[str], None]


@dataclass
class Outcome:
    """What came of a row.

    Attributes
    ----------
    row
    facts
        What its process said when it was ready.
    blocks
        What it measured, the block that warms up left out.
    warm_up
        That block.
    error
        Why there are no numbers; ``None`` if there are.
    died
        Whether its process ended by itself.
    """

    row: Row
    facts: dict[str, Any] = field(default_factory=dict)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    warm_up: dict[str, Any] | None = None
    error: str | None = None
    died: bool = False

    @property
    def measured(self) -> bool:
        """Whether it has numbers."""
        return self.error is None and bool(self.blocks)


@dataclass(frozen=True)
class Runner:
    """Runs the rows of one test.

    Attributes
    ----------
    compute
        What is the same in all rows.
    bytes_per_cell, bytes_per_row
        What a row allocates for each cell, and beside them.
    gpu
        Whether it does so on GPUs.
    stock
        Folder of the libllama of full rows; ``None``: ours.
    note
        Called with a line for each thing that happens.
    verbose
        Show what the processes write to stderr.
    """

    compute: Compute
    bytes_per_cell: int = 0
    bytes_per_row: int = 0
    gpu: bool = False
    stock: str | None = None
    note: Note = lambda line: None
    verbose: bool = False

    def run(self, rows: Sequence[Row], rounds: int, outcomes: list[Outcome]) -> None:
        """Measure a block that warms up and `rounds` more of every row.

        What comes of it is added to `outcomes` at once, so that it is there after Ctrl-C too.
        """
        with ExitStack() as opened:
            workers: list[tuple[Outcome, Worker]] = []
            pending = list(rows)
            while pending:
                outcome = Outcome(pending.pop(0))
                outcomes.append(outcome)
                self.note(
                    f"filling {len(outcomes)}/{len(outcomes) + len(pending)}: {name(outcome)}"
                )
                worker = self._start(outcome, opened)
                if worker is not None:
                    workers.append((outcome, worker))
                    pending += follow_ups(outcome, pending + [item.row for item in outcomes])
            for number in range(rounds + 1):
                self.note(f"round {number}/{rounds}" if number else "warming up")
                self._round(workers, number)

    def _start(self, outcome: Outcome, opened: ExitStack) -> Worker | None:
        """Start a row's process; None, with the reason in the outcome, if that fails."""
        row = outcome.row
        outcome.error = self._lacks_memory(row)
        if outcome.error is not None:
            return None
        library = self.stock if row.role in ("full", "same") else None
        worker = Worker(row, self.compute, library, self.verbose)
        opened.callback(self._close, worker)
        try:
            outcome.facts = worker.start()
        except (RowRefused, RowDied) as err:
            outcome.error, outcome.died = str(err), isinstance(err, RowDied)
            self.note(f"{name(outcome)}: {err}")
            self._close(worker)
            return None
        return worker

    def _round(self, workers: list[tuple[Outcome, Worker]], number: int) -> None:
        for outcome, worker in workers:
            if outcome.error is not None:
                continue
            try:
                block = worker.block()
            except RowDied as err:
                outcome.error, outcome.died = str(err), True
                self.note(f"{name(outcome)}: {err}")
                continue
            if number == 0:
                outcome.warm_up = block
            else:
                outcome.blocks.append({"round": number, **block})

    def _lacks_memory(self, row: Row) -> str | None:
        n_cells = round_up(row.cells)
        needed = n_cells * self.bytes_per_cell + self.bytes_per_row
        free = free_memory(gpu=self.gpu)
        if needed <= free:
            return None
        return (
            f"{n_cells} cells take {format_bytes(needed)}, but {format_bytes(free)} are free: "
            "give a smaller -d, or fewer rows"
        )

    def _close(self, worker: Worker) -> None:
        if self.verbose:
            for line in worker.errors().splitlines():
                self.note(line)
        worker.close()


def name(outcome: Outcome) -> str:
    """Name a row in a line."""
    row = outcome.row
    return f"{row.label}, flash attention {row.flash}, {row.measures}"


def follow_ups(outcome: Outcome, known: Sequence[Row]) -> list[Row]:
    """Return the rows that a row is compared with and that only its own start could tell."""
    row = outcome.row
    if row.test != "turn" or not row.bounded:
        return []
    n_read, n_before = outcome.facts["turn_tokens"], outcome.facts["cells_before"]
    base = Row("turn", "same", row.flash, n_before + n_read, n_read=n_read, fill=row.fill)
    return [base] if base not in known else []
