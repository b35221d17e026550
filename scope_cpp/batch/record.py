"""What came of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scope_cpp.batch.rows import FAILED, INVALID_REQUEST, Failure, Row
from scope_cpp.engine.generate import Response
from scope_cpp.errors import ScopeError, UsageError


@dataclass(frozen=True)
class Record:
    """A text with its numbers, or the reason why there is none; plain values.

    Attributes
    ----------
    index, line, id, digest, chat
        Those of the `Row`.
    text, finish_reason
        ``"stop"`` or ``"length"``; ``None`` with an error.
    no_text
        Why the text shows nothing, where it does; see `Response`.
    raw
        Whether the row gave a prompt, not messages.
    n_prompt, n_generated
        Tokens read and written.
    seed, policy
        As used.
    cells_peak, cells_capacity, evicted
        Most cells that the row had; most that it may have; cells freed.
    timings
        Seconds, and tokens per second.
    error
        Why there is no text.
    """

    index: int
    line: int
    id: str | int | None
    digest: str
    chat: bool = False
    text: str | None = None
    finish_reason: str | None = None
    no_text: str | None = None
    raw: bool = False
    n_prompt: int = 0
    n_generated: int = 0
    seed: int | None = None
    policy: str | None = None
    cells_peak: int = 0
    cells_capacity: int = 0
    evicted: int = 0
    timings: Mapping[str, float] = field(default_factory=dict)
    error: Failure | None = None

    @property
    def ended_at_once(self) -> bool:
        """Whether the first token ended the output."""
        return self.n_generated == 1 and self.finish_reason == "stop" and self.no_text is not None


def finished(row: Row, text: str, last: Response, *, seed: int, policy: str) -> Record:
    """Return the record of a row that was written to its `last` response."""
    stats = last.stats
    return Record(
        row.index, row.line, row.id, row.digest, row.chat,
        text=text,
        finish_reason=last.finish_reason,
        no_text=last.no_text,
        raw=row.messages is None,
        n_prompt=stats.n_prompt,
        n_generated=stats.n_generated,
        seed=seed,
        policy=policy,
        cells_peak=stats.cells_peak,
        cells_capacity=stats.cells_capacity,
        evicted=stats.evicted,
        timings={
            "prompt_seconds": stats.prompt_seconds,
            "generation_seconds": stats.generation_seconds,
            "prompt_per_second": stats.prompt_per_second,
            "generated_per_second": stats.generated_per_second,
        },
    )  # fmt: skip


def failed(row: Row, failure: Failure) -> Record:
    """Return the record of a row without a result."""
    return Record(row.index, row.line, row.id, row.digest, row.chat, error=failure)


def failure_of(err: ScopeError) -> Failure:
    """Return what a record says of an error."""
    kind = INVALID_REQUEST if isinstance(err, UsageError) else FAILED
    return Failure(kind, " ".join(str(err).split()))
