"""Rows: what is to be run, each known by an id of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scope_cpp.engine.parallel.options import Options

INVALID_LINE = "invalid_line"
DUPLICATE_ID = "duplicate_id"
INVALID_REQUEST = "invalid_request"
FAILED = "failed"


@dataclass(frozen=True)
class Failure:
    """Why a row has no result.

    Attributes
    ----------
    type
        `INVALID_LINE`: it can't be read. `DUPLICATE_ID`. `INVALID_REQUEST`: what it asks for is
        wrong, or can never fit. `FAILED`: something went wrong on the way.
    message
        One line, with the cause and the remedy.
    """

    type: str
    message: str


@dataclass(frozen=True)
class Row:
    """One row of the input; plain values, which can be sent to another process.

    Attributes
    ----------
    index
        Its place in the input, from 0; no two rows share one.
    line
        Number of the line where it begins, from 1.
    id
        As given; ``None`` if there is none or it can't be told. Numbers stay numbers.
    digest
        16 hex digits that stand for all that it asks, in whatever order its keys are.
    prompt, messages
        Text or token ids, or the messages of a chat: one of them, or neither if `error` is there.
    options
        What it sets for itself.
    chat
        Whether its result has the shape of a chat's.
    error
        Why there is nothing to run.
    """

    index: int
    line: int
    id: str | int | None
    digest: str
    prompt: str | tuple[int, ...] | None = field(default=None, hash=False)
    messages: tuple[Mapping[str, Any], ...] | None = field(default=None, hash=False)
    options: Options = field(default_factory=Options, hash=False)
    chat: bool = False
    error: Failure | None = None

    @property
    def key(self) -> str:
        """What tells it from all others, also when a later run reads the input again."""
        return key_of(self.id, self.line)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"line {self.line}" if self.id is None else f"{str(self.id)!r} (line {self.line})"


def key_of(id: str | int | None, line: int) -> str:
    """Return the key of a row; the ids ``1`` and ``"1"`` are the same."""
    return f"line {line}" if id is None else f"id {id}"


def digest_of(asked: Any) -> str:
    """Return the digest of what a row asks: JSON values, or the bytes of a bad line."""
    if not isinstance(asked, bytes):
        asked = json.dumps(asked, sort_keys=True, ensure_ascii=True).encode()
    return hashlib.blake2b(asked, digest_size=8).hexdigest()


def unique(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield all rows; one whose id was there before becomes an error without id.

    The first row keeps the id, so that nothing which is looked up by it gets the other's error.
    """
    seen: dict[str, int] = {}
    for row in rows:
        first = seen.setdefault(row.key, row.line)
        if row.id is None or first == row.line:
            yield row
            continue
        why = f"the id {str(row.id)!r} is that of line {first}: give each row an id of its own"
        yield replace(row, id=None, prompt=None, messages=None, error=Failure(DUPLICATE_ID, why))
