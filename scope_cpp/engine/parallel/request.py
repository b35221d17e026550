"""What goes into the engine and what comes out."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from scope_cpp.engine.arguments import check_fields, is_list
from scope_cpp.engine.generate import Response
from scope_cpp.engine.rendering import Rendering
from scope_cpp.engine.sampling import Alternative, SamplingParams
from scope_cpp.engine.schema.matcher import CompiledSchema
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, WrongValue

__all__ = ["Alternative", "Event", "Request"]


@dataclass(frozen=True)
class Request:
    """One row: what `Generation` takes.

    Attributes
    ----------
    prompt
        Text, or token ids.
    n_predict
        Longest output in tokens; ``None`` for no limit.
    settings
        Policy, prefill, granularity, options, budget and context size of this row; ``None`` takes
        the engine's. The context's dials (KV types, batches, threads, flash attention, offload)
        must be the engine's.
    sampling, stop, parse_special
        See `Generation`.
    logprobs
        ``None`` for none; else with each token its log probability and that of so many of the
        most likely ones, of the model's own distribution (before bias, penalties, temperature).
    chat
        The messages that the prompt is a rendering of. With a policy that bounds answers the row is
        a turn of a conversation then, see `talk_cells`, with the budget as that of all its turns.
    branches
        Whether others go on from where this one does: it leaves what it goes on from as it is.
    schema
        What the JSON schema of `sampling` was compiled to; ``None``: it is when it is submitted.

    Raises
    ------
    UsageError
        If a field is of another type.
    """

    prompt: str | tuple[int, ...]
    n_predict: int | None = None
    settings: Settings | None = None
    sampling: SamplingParams = SamplingParams()
    stop: tuple[str, ...] = ()
    parse_special: bool = True
    logprobs: int | None = None
    schema: CompiledSchema | None = None
    chat: Rendering | None = None
    branches: bool = False

    def __post_init__(self) -> None:
        """Check what needs no model, in a time that does not depend on the prompt's length."""
        check_fields(self, but=("prompt", "chat"))
        if not (isinstance(self.prompt, str) or is_list(self.prompt)):
            raise WrongValue("prompt", f"is {self.prompt!r}: give a text or a list of tokens")
        if not (self.chat is None or isinstance(self.chat, Rendering)):
            raise WrongValue("chat", f"is {self.chat!r}: give a Rendering or None")


@dataclass(frozen=True)
class Event:
    """One step of one row.

    Attributes
    ----------
    key
        The row, as it was submitted.
    response
        As of a `Generation`; the last one has a finish reason. ``None`` with an error.
    error
        The row ended with this: its cells are free, the other rows go on.
    logprobs
        Of the response's token first, then of the most likely ones, as many as were asked for.
    """

    key: Hashable
    response: Response | None
    error: ScopeError | None = None
    logprobs: tuple[Alternative, ...] = ()
