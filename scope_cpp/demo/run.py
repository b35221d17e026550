"""The runs themselves: every method on every sheet, one after the other."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence

import numpy as np

from scope_cpp.demo.outcome import Outcome, Shares, Text
from scope_cpp.demo.rows import ROWS, Row
from scope_cpp.demo.sheet import Sheet
from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.generate import Generation
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.sizes import resolve
from scope_cpp.native import kv_evict

KNOWN = 0.01
"""Share of all tokens after which the speed is known well enough to say how long the rest takes."""


class Demo:
    """All runs.

    Parameters
    ----------
    model
        Stays open while the demo runs.
    sheets
        What it is to write.
    rows
        By which methods.
    n_threads
        0: one for each physical core.

    Raises
    ------
    UsageError
        If the cells are too few for a row.

    Attributes
    ----------
    outcomes : list of Outcome
        One for each row, from the start.
    warnings : list of str
        What the engine has to say about the settings, each once.
    seconds : float
        Time since the start, until the last token.
    """

    def __init__(
        self,
        model: Model,
        sheets: Sequence[Sheet],
        rows: Sequence[Row] = ROWS,
        n_threads: int = 0,
    ) -> None:
        self.model, self.sheets, self.n_threads = model, list(sheets), n_threads
        for row in rows:
            for sheet in self.sheets:
                settings = row.settings(sheet.n_cells, n_threads)
                resolve(settings, model, sheet.n_prompt, sheet.n_output)
        self.outcomes = [Outcome(row, self.sheets) for row in rows]
        self.warnings: list[str] = []
        self.seconds = 0.0

    def run(self) -> Generator[Outcome, None, None]:
        """Write greedily; yield a row after each of its tokens. Can be closed at any time."""
        started = time.perf_counter()
        for outcome in self.outcomes:
            for sheet in self.sheets:
                text = Text(sheet)
                outcome.texts.append(text)
                for _ in self._write(outcome.row, text):
                    self.seconds = time.perf_counter() - started
                    yield outcome

    @property
    def interrupted(self) -> bool:
        """Whether a row is missing."""
        return not all(outcome.finished for outcome in self.outcomes)

    def seconds_left(self) -> float | None:
        """Time that the rest will take if it goes on as so far; ``None`` until that is known."""
        tokens = sum(sheet.n_output for sheet in self.sheets) * len(self.outcomes)
        begun = [text for outcome in self.outcomes for text in outcome.texts]
        done = sum(t.sheet.n_output if t.finish else t.stats.n_generated for t in begun)
        return self.seconds * (tokens - done) / done if done >= KNOWN * tokens else None

    def _write(self, row: Row, text: Text) -> Iterator[None]:
        sheet = text.sheet
        with Generation(
            self.model,
            sheet.sample.prompt,
            n_predict=sheet.n_output,
            settings=row.settings(sheet.n_cells, self.n_threads),
            sampling=SamplingParams(temp=0),
            warn=self._warn,
        ) as generation:
            responses = iter(generation)
            while text.finish is None:
                started = time.perf_counter()
                response = next(responses)
                if text.stats.n_generated:
                    text.seconds += time.perf_counter() - started
                text.text += response.text
                text.stats = response.stats
                text.n_used = max(text.n_used, kv_evict.n_used(generation.context.ptr))
                if response.finish_reason is not None:
                    text.kept = kept(generation.cache)
                    text.finish = response.finish_reason
                yield

    def _warn(self, line: str) -> None:
        if line not in self.warnings:
            self.warnings.append(line)


def kept(cache: BoundedCache) -> Shares:
    """Share of the layers and KV heads that have a row of each position: (n_past,)."""
    pos = cache.positions()
    if not pos.shape[0]:  # nothing is bounded: no layer is looked at
        return np.ones(cache.n_past)
    have = pos[pos >= 0]
    counts = np.bincount(have, minlength=cache.n_past)[: cache.n_past]
    return np.asarray(counts / (pos.shape[0] * pos.shape[1]), np.float64)
