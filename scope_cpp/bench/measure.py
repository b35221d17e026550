"""The whole of a bench: from a request to a report."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from scope_cpp.bench.environment import environment, model_facts
from scope_cpp.bench.request import Request
from scope_cpp.bench.run import Note, Outcome, Runner
from scope_cpp.bench.sizes import sizes_of
from scope_cpp.bench.summary import record
from scope_cpp.engine.capability import probe
from scope_cpp.engine.kv_types import bytes_per_cell
from scope_cpp.engine.length import require_positions
from scope_cpp.engine.model import Model


@dataclass
class Report:
    """What was measured.

    Attributes
    ----------
    environment, model
        See environment.py.
    outcomes
        One for each row, in the order in which they took turns.
    interrupted
        Whether Ctrl-C ended it; the outcomes are what was finished.
    """

    environment: dict[str, Any]
    model: dict[str, Any]
    compute: dict[str, Any]
    outcomes: list[Outcome] = field(default_factory=list)
    interrupted: bool = False

    @property
    def failed(self) -> bool:
        """Whether a row failed, or no row has numbers."""
        failed = any(outcome.error is not None for outcome in self.outcomes)
        return failed or not any(outcome.measured for outcome in self.outcomes)

    def records(self) -> list[dict[str, Any]]:
        """Return settings and numbers of all rows."""
        return [record(outcome, self.outcomes) for outcome in self.outcomes]


class Bench:
    """Measures what is asked for.

    Parameters
    ----------
    request
    warn
        Called with a line for each thing that the user should know.
    note
        Called with a line for each thing that happens.
    verbose
        Show what the processes of the rows write to stderr.

    Raises
    ------
    UsageError
        If the request can't be, before anything is measured.
    ScopeError
        If the model can't be loaded.
    """

    def __init__(
        self,
        request: Request,
        warn: Note = warnings.warn,
        note: Note = lambda line: None,
        verbose: bool = False,
    ) -> None:
        compute = request.compute
        self.request = request
        with Model.load(compute.model, no_alloc=True) as model:
            per_cell = bytes_per_cell(model, compute.type_k, compute.type_v)
            self.rows = {test: request.rows(test, model) for test in request.tests}
            facts = model_facts(model) | {"refusal": self._refusal()}
            self.report = Report(environment(request), facts, asdict(compute))
            require_positions(model, self._deepest + 1)
            for line in self._warnings(model):
                warn(line)
        offloaded = bool(self.report.environment["offloaded"])
        self._runner = Runner(
            compute,
            per_cell,
            self.report.model["size_bytes"] if offloaded else 0,
            offloaded,
            request.stock,
            note,
            verbose,
        )

    def run(self) -> Report:
        """Measure one test after the other; Ctrl-C ends it with what is finished."""
        try:
            for test, rows in self.rows.items():
                outcomes: list[Outcome] = []
                try:
                    self._runner.run(rows, self.request.rounds(test), outcomes)
                finally:
                    self.report.outcomes += outcomes
        except KeyboardInterrupt:
            self.report.interrupted = True
        return self.report

    def _refusal(self) -> str:
        """Why no row can be bounded with this model; empty where one can."""
        compute = self.request.compute
        verdicts = [
            probe(compute.model, compute.type_k, compute.type_v, flash)
            for flash in self.request.flash
        ]
        refused = [item.reason for item in verdicts if item.generates and not item.supported]
        return refused[0] if len(refused) == len(verdicts) else ""

    @property
    def _deepest(self) -> int:
        return max(row.depth for rows in self.rows.values() for row in rows)

    def _warnings(self, model: Model) -> Iterator[str]:
        rows = [row for rows in self.rows.values() for row in rows]
        alone = [row for row in rows if row.bounded and row.test != "turn"]
        sizes = [sizes_of(row, self.request.compute, model) for row in alone]
        yield from dict.fromkeys(line for item in sizes for line in item.warnings)
        if self._deepest > model.n_ctx_train:
            yield (
                f"depth {self._deepest} is beyond the {model.n_ctx_train} positions that the model "
                "was trained on: its text would be poor there, times and memory are what they are"
            )
