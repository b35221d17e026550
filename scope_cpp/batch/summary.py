"""What came of a batch, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scope_cpp.batch.run import Outcome
from scope_cpp.batch.runner import Status


@dataclass(frozen=True)
class Summary:
    """What came of a batch.

    Attributes
    ----------
    source, output, model
        Names.
    outcome
        Of this start.
    n_all
        Rows that there are; ``None`` for a stream that was not read to its end.
    status
        Of the runner, at the end.
    n_parallel
        Rows at once.
    seconds
        From the first row on.
    seed
        Of the run.
    resumable
        Whether the same command goes on from here.
    chat_instead
        Whether prompts were continued although the model has a chat template.
    """

    source: str
    output: str
    model: str
    outcome: Outcome
    n_all: int | None
    status: Status
    n_parallel: int
    seconds: float
    seed: int
    resumable: bool
    chat_instead: bool = False

    @property
    def n_failed(self) -> int:
        """Records that are errors, of this start and earlier ones."""
        return self.outcome.n_failed + self.outcome.n_failed_before

    @property
    def complete(self) -> bool:
        """Whether all rows have a record."""
        return self.outcome.ended

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        outcome, status = self.outcome, self.status
        first = None
        if outcome.first is not None:
            name, failure = outcome.first
            first = {"row": name, "type": failure.type, "message": failure.message}
        return {
            "input": self.source,
            "output": self.output,
            "model": self.model,
            "complete": self.complete,
            "rows": {
                "all": self.n_all,
                "done": outcome.n_done,
                "ok": outcome.n_ok,
                "failed": outcome.n_failed,
                "ended_at_once": outcome.n_ended_at_once,
                "already_there": outcome.n_skipped,
                "failed_before": outcome.n_failed_before,
            },
            "first_error": first,
            "tokens": {"prompt": status.n_prompt, "generated": status.n_generated},
            "seconds": round(self.seconds, 3),
            "generated_per_second": round(self.per_second, 3),
            "evicted": status.n_evicted,
            "cells": {"peak": status.cells_peak, "all": status.n_cells},
            "parallel": self.n_parallel,
            "seed": self.seed,
        }

    @property
    def per_second(self) -> float:
        """Tokens written per second, of all rows together."""
        return self.status.n_generated / self.seconds if self.seconds else 0.0

    def line(self) -> str:
        """Return it in one line."""
        outcome, status = self.outcome, self.status
        there = f" ({outcome.n_skipped} were there)" if outcome.n_skipped else ""
        all = "" if self.n_all is None else f" of {self.n_all}"
        rate = f", {self.per_second:.1f} t/s" if status.n_generated else ""
        return (
            f"{outcome.n_done - self.n_failed}{all} rows done{there}, {self.n_failed} failed | "
            f"read {status.n_prompt} tokens, wrote {status.n_generated} in {self.seconds:.1f} s"
            f"{rate} | cells {status.cells_peak}/{status.n_cells}, "
            f"up to {self.n_parallel} rows at once | evicted {status.n_evicted}"
        )

    def error(self) -> str | None:
        """Return the line about rows that failed; ``None`` if none did."""
        if not self.n_failed:
            return None
        counted = f"{self.n_failed} of {self.outcome.n_done} rows failed"
        if self.outcome.first is None:
            return f"{counted}, all of them at an earlier start; {self.output} says why"
        name, failure = self.outcome.first
        return f"{counted}, the first of them {name}: {failure.message}"

    def silence(self) -> str | None:
        """Return the line about a run whose outputs mostly end at once; ``None`` for others."""
        n, n_ok = self.outcome.n_ended_at_once, self.outcome.n_ok
        if 2 * n <= n_ok:
            return None
        remedy = "give the model's own chat template, or --ignore-eos to go on"
        if self.chat_instead and 2 * self.outcome.n_raw_at_once > n:
            remedy = "'prompt' is text to continue: give 'messages', or --chat for a user's message"
        return f"{n} of {n_ok} outputs have no text: the first token ended them; {remedy}"

    def how_to_go_on(self) -> str | None:
        """Return the line about rows that are left; ``None`` if none are."""
        if self.complete:
            return None
        left = "rows are left"
        if self.n_all is not None:
            left = f"{self.n_all - self.outcome.n_done} of {self.n_all} {left}"
        if not self.resumable:
            return f"{left}; reading from a pipe can't be resumed: give files with -i and -o"
        return f"{left}; the same command goes on with them, in {self.output}"
