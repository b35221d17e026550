"""The engine as rows in, records out: what every process that computes rows is made of."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from scope_cpp.batch.record import Record, failed, failure_of, finished
from scope_cpp.batch.requests import Defaults, Requests
from scope_cpp.batch.rows import Row
from scope_cpp.engine.generate import Warn
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel import Event, ParallelEngine
from scope_cpp.errors import ScopeError

# Rows that wait for their turn beside those that run: enough to never keep the engine waiting
AHEAD = 2


@dataclass(frozen=True)
class Status:
    """How a runner is doing.

    Attributes
    ----------
    n_running
        Rows that run now.
    n_prompt, n_generated
        Tokens read of finished rows' prompts, and written by all rows so far.
    n_evicted
        Cells freed so far.
    cells_used, cells_peak, n_cells
        Cells in use now and at most, and all there are; of several engines the sum.
    """

    n_running: int = 0
    n_prompt: int = 0
    n_generated: int = 0
    n_evicted: int = 0
    cells_used: int = 0
    cells_peak: int = 0
    n_cells: int = 0


class Runner(Protocol):
    """What the driver needs of whatever computes rows."""

    @property
    def room(self) -> int:
        """How many more rows it would like to have now; 0 or less: none."""

    @property
    def busy(self) -> bool:
        """Whether records are still to come."""

    def submit(self, row: Row) -> None:
        """Take a row without an error of its own; what is wrong with it comes out of `step`."""

    def step(self) -> list[Record]:
        """Go on a little; return what is finished since.

        Raises
        ------
        ScopeError
            If it can't go on at all.
        """

    def status(self) -> Status:
        """How it is doing."""

    def close(self) -> None:
        """Give up what runs, free everything."""


@dataclass
class _Running:
    row: Row
    seed: int
    policy: str
    pieces: list[str] = field(default_factory=list)


class EngineRunner:
    """Rows on one engine in this process; a context manager, used by one thread.

    Parameters
    ----------
    model
        Stays open while it is used.
    defaults
        What rows get that set nothing; its settings are the engine's too.
    n_parallel, n_cells, prefix_cells
        Of the `ParallelEngine`.
    warn
        Called with one line for each thing the user should know.
    """

    def __init__(
        self,
        model: Model,
        defaults: Defaults,
        *,
        n_parallel: int,
        n_cells: int,
        prefix_cells: int = 0,
        warn: Warn,
    ) -> None:
        self._requests = Requests(model, defaults)
        self._engine = ParallelEngine(
            model,
            n_parallel=n_parallel,
            n_cells=n_cells,
            settings=defaults.settings,
            prefix_cells=prefix_cells,
            come_back=False,
            warn=warn,
        )
        self._most = n_parallel + AHEAD
        self._rows: dict[str, _Running] = {}
        self._ended: list[Record] = []
        self._n_prompt = self._peak = 0

    def __enter__(self) -> EngineRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def room(self) -> int:
        """See `Runner`."""
        return self._most - len(self._rows) - len(self._ended)

    @property
    def busy(self) -> bool:
        """See `Runner`."""
        return bool(self._rows or self._ended)

    def submit(self, row: Row) -> None:
        """See `Runner`."""
        try:
            request = self._requests.of(row)
            self._engine.submit(request, row.key)
        except ScopeError as err:
            self._ended.append(failed(row, failure_of(err)))
            return
        policy = (request.settings or self._requests.defaults.settings).policies()[0].name
        self._rows[row.key] = _Running(row, request.sampling.seed, policy)

    def step(self) -> list[Record]:
        """See `Runner`; at most one ``llama_decode``."""
        ended, self._ended = self._ended, []
        if self._rows:
            ended += [record for event in self._engine.step() for record in self._take(event)]
            self._peak = max(self._peak, self._engine.cells_used())
        return ended

    def status(self) -> Status:
        """See `Runner`."""
        engine = self._engine
        return Status(
            n_running=engine.n_running,
            n_prompt=self._n_prompt,
            n_generated=engine.n_generated,
            n_evicted=engine.n_evicted,
            cells_used=engine.cells_used(),
            cells_peak=self._peak,
            n_cells=engine.n_cells,
        )

    def close(self) -> None:
        """See `Runner`."""
        self._rows.clear()
        self._engine.close()

    def _take(self, event: Event) -> list[Record]:
        """Add a piece to its row; return the row's record if it was the last."""
        running = self._rows[str(event.key)]
        if event.error is not None:
            del self._rows[running.row.key]
            return [failed(running.row, failure_of(event.error))]
        response = event.response
        if response is None:
            return []
        running.pieces.append(response.text)
        if response.finish_reason is None:
            return []
        del self._rows[running.row.key]
        self._n_prompt += response.stats.n_prompt
        text = "".join(running.pieces)
        return [finished(running.row, text, response, seed=running.seed, policy=running.policy)]


@dataclass(frozen=True)
class Plan:
    """All that another process needs to make the same runner; plain values.

    Attributes
    ----------
    path, placement
        Of the model; arguments of `Model.load`.
    defaults, n_parallel, n_cells, prefix_cells
        See `EngineRunner`.
    """

    path: str
    placement: Mapping[str, Any]
    defaults: Defaults
    n_parallel: int
    n_cells: int
    prefix_cells: int = 0

    def open(self, opened: ExitStack, warn: Warn) -> tuple[Model, EngineRunner]:
        """Load the model and make the runner; `opened` closes them, the runner first."""
        model = opened.enter_context(Model.load(self.path, **self.placement))
        return model, opened.enter_context(self.runner(model, warn))

    def runner(self, model: Model, warn: Warn) -> EngineRunner:
        """Make the runner on a model that is loaded."""
        return EngineRunner(
            model,
            self.defaults,
            n_parallel=self.n_parallel,
            n_cells=self.n_cells,
            prefix_cells=self.prefix_cells,
            warn=warn,
        )
