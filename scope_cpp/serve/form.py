"""The two forms of question and answer have this in common."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from scope_cpp.engine.parallel import Request
from scope_cpp.serve.choice import Choice, Piece

Object = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What a request came to.

    Attributes
    ----------
    rows
        One for each answer.
    n
        Answers to each prompt.
    stream, usage
        Send the answers as they are written; and the usage at the end of that.
    scope, picture
        Tell of the cache; and which cells are kept.
    prompts
        For the log, if prompts are logged.
    param
        The field that they came from.
    """

    rows: Sequence[Request]
    n: int
    stream: bool
    usage: bool
    scope: bool
    picture: bool
    prompts: Sequence[object]
    param: str


def asked(body: Object, rows: Sequence[Request], prompts: Sequence[object], param: str) -> Asked:
    """Read the fields that say how answers are sent."""
    scope = body.get("scope")
    options = body.get("stream_options") or {}
    n = body.get("n") or 1
    return Asked(
        rows=rows,
        n=n,
        stream=bool(body.get("stream")),
        usage=bool(options.get("include_usage")),
        scope=scope is not None,
        picture=bool(scope and scope.get("picture")),
        prompts=prompts,
        param=param,
    )


@dataclass
class Form:
    """How answers look; one object for each request."""

    model: str
    prefix: ClassVar[str]
    whole_kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    id: str = field(init=False)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"

    def opening(self, index: int) -> Object | None:
        """What a stream says of an answer before its first text."""
        return None

    def part(self, index: int, piece: Piece) -> Object:
        """A choice of a chunk."""
        raise NotImplementedError

    def choice(self, index: int, pieces: Sequence[Piece]) -> Object:
        """A choice of a whole answer."""
        raise NotImplementedError

    def chunk(self, choices: list[Object], **more: Any) -> Object:
        """An object of a stream."""
        return self._head(self.chunk_kind) | {"choices": choices} | more

    def whole(self, choices: list[Object], **more: Any) -> Object:
        """An answer at once."""
        return self._head(self.whole_kind) | {"choices": choices} | more

    def _head(self, kind: str) -> Object:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage(asked: Asked, choices: Sequence[Choice]) -> Object:
    """Tokens of a request: each prompt counts once, however many answers it gets."""
    n_generated = sum(choice.stats.n_generated for choice in choices)
    n_prompt = sum(choice.stats.n_prompt for choice in choices[:: asked.n])
    n_shared = sum(choice.stats.n_shared for choice in choices[:: asked.n])
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_generated,
        "total_tokens": n_prompt + n_generated,
        "prompt_tokens_details": {"cached_tokens": n_shared},
    }


def counts(choice: Choice) -> Object:
    """The cells of an answer, for the field ``scope``, and why it has no text, if it has none."""
    stats = choice.stats
    told: Object = {
        "used": stats.cells_used,
        "capacity": stats.cells_capacity,
        "evicted": stats.evicted,
    }
    if choice.no_text is not None:
        told["no_text"] = choice.no_text
    return (choice.picture or {}) | told
