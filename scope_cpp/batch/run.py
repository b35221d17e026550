"""The driver: rows from a feed to a runner, records from there to a sink."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from scope_cpp.batch.record import Record, failed
from scope_cpp.batch.rows import Failure, Row
from scope_cpp.batch.runner import Runner
from scope_cpp.batch.sink import Sink
from scope_cpp.batch.source import Feed


@dataclass
class Outcome:
    """What came of a run, so far or in the end.

    Attributes
    ----------
    n_ok, n_failed
        Records written by this run.
    n_ended_at_once, n_raw_at_once
        Those of them whose first token ended the output; and of these, those of a prompt.
    n_skipped, n_failed_before
        Rows whose records were there, and those of them that are errors.
    first
        Name of the first row that failed, and why.
    ended
        Whether all rows are done; not if somebody wanted it to stop.
    """

    n_ok: int = 0
    n_failed: int = 0
    n_ended_at_once: int = 0
    n_raw_at_once: int = 0
    n_skipped: int = 0
    n_failed_before: int = 0
    first: tuple[str, Failure] | None = None
    ended: bool = field(default=False)

    @property
    def n_done(self) -> int:
        """Rows that have a record."""
        return self.n_ok + self.n_failed + self.n_skipped


Progress = Callable[[Outcome], None]


def run(
    feed: Feed,
    sink: Sink,
    runner: Runner,
    *,
    stop: Callable[[], bool] = lambda: False,
    fail_fast: bool = False,
    progress: Progress = lambda outcome: None,
) -> Outcome:
    """Run all rows of a feed whose records are not there.

    Rows are taken when the runner has room for them. What runs when somebody wants to stop is
    given up: it has no record, and runs again another time.

    Parameters
    ----------
    feed, sink, runner
    stop
        Asked between steps.
    fail_fast
        Stop after the first record that is an error.
    progress
        Called after each step.

    Raises
    ------
    UsageError
        If the input can't be read, or a row is not the one that its record is of.
    ScopeError, OSError
        If records can't be written, or nothing can be computed.
    """
    driver = _Driver(feed, sink, runner)

    def over() -> bool:
        return stop() or (fail_fast and driver.outcome.n_failed > 0)

    while not over():
        driver.fill(over)
        progress(driver.outcome)
        if over():
            break
        if runner.busy:
            driver.step()
        elif feed.ended:
            sink.finish()
            driver.outcome.ended = True
            break
    progress(driver.outcome)
    return driver.outcome


class _Driver:
    """Keeps a runner supplied, and account of what comes out."""

    def __init__(self, feed: Feed, sink: Sink, runner: Runner) -> None:
        self._feed, self._sink, self._runner = feed, sink, runner
        self._names: dict[int, str] = {}
        self.outcome = Outcome()

    def fill(self, over: Callable[[], bool]) -> None:
        """Give the runner rows while it has room and they are there."""
        while self._runner.room > 0 and not self._feed.ended and not over():
            row = self._feed.take(wait=not self._runner.busy)
            if row is None:
                return
            self._take(row)

    def _take(self, row: Row) -> None:
        if self._sink.has(row):
            self.outcome.n_failed_before += self._sink.skip(row)
            self.outcome.n_skipped += 1
            return
        self._names[row.index] = row.name
        if row.error is not None:
            self._put(failed(row, row.error))
        else:
            self._runner.submit(row)

    def step(self) -> None:
        """Let the runner go on, write what is finished."""
        for record in self._runner.step():
            self._put(record)

    def _put(self, record: Record) -> None:
        self._sink.put(record)
        name, outcome = self._names.pop(record.index), self.outcome
        if record.error is None:
            outcome.n_ok += 1
            outcome.n_ended_at_once += record.ended_at_once
            outcome.n_raw_at_once += record.ended_at_once and record.raw
            return
        outcome.n_failed += 1
        outcome.first = outcome.first or (name, record.error)
