"""Workers that die: what a run on Ray must survive."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from scope_cpp.batch.record import Record
from scope_cpp.batch.rows import Row
from scope_cpp.batch.runner import EngineRunner, Plan
from scope_cpp.engine.generate import Warn
from scope_cpp.engine.model import Model

POISON = "poison"


class DyingRunner(EngineRunner):
    """Its process is killed a few steps after a row whose prompt is `POISON`.

    Where `first` is a path, also at its 60th step, if it is the first to make that file.
    """

    first: str | None = None
    n_steps = 0
    last: int | None = None

    def submit(self, row: Row) -> None:
        super().submit(row)
        if row.prompt == POISON:
            self.last = self.n_steps + 3

    def step(self) -> list[Record]:
        self.n_steps += 1
        if self.n_steps == self.last or (self.n_steps == 60 and self._is_first()):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step()

    def _is_first(self) -> bool:
        if self.first is None:
            return False
        try:
            os.close(os.open(self.first, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


@dataclass(frozen=True)
class DyingPlan(Plan):
    """Makes a `DyingRunner`."""

    first: str | None = None

    def runner(self, model: Model, warn: Warn) -> EngineRunner:
        runner = DyingRunner(
            model,
            self.defaults,
            n_parallel=self.n_parallel,
            n_cells=self.n_cells,
            prefix_cells=self.prefix_cells,
            warn=warn,
        )
        runner.first = self.first
        return runner
