"""A record as a line of the output, and what a line of the output tells of its row."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from scope_cpp.batch.record import Record
from scope_cpp.batch.rows import FAILED, INVALID_LINE, key_of


@dataclass(frozen=True, slots=True)
class Seen:
    """What a line of the output is of: the row's key and digest, and whether it failed."""

    key: str
    digest: str
    failed: bool


class Shape(Protocol):
    """One of the forms of an output."""

    name: str

    def values(self, record: Record) -> dict[str, Any]:
        """Return a record as JSON values."""

    def seen(self, values: Mapping[str, Any]) -> Seen:
        """Return what such values are of.

        Raises
        ------
        ValueError, TypeError, KeyError
            If they are no record of this shape.
        """


def line_of(shape: Shape, record: Record) -> bytes:
    """Return the line of a record, with its end; ASCII, so that nobody splits it elsewhere."""
    return json.dumps(shape.values(record), ensure_ascii=True).encode() + b"\n"


class Plain:
    """Flat records of our own."""

    name = "plain"

    def values(self, record: Record) -> dict[str, Any]:
        """See `Shape`; what an error has not got is ``null``."""
        ok = record.error is None
        return {
            "id": record.id,
            "text": record.text,
            "no_text": record.no_text,
            "finish_reason": record.finish_reason,
            "usage": usage(record) if ok else None,
            "seed": record.seed,
            "policy": record.policy,
            "cells": cells(record) if ok else None,
            "evicted": record.evicted if ok else None,
            "timings": rounded(record.timings) if ok else None,
            "error": None if record.error is None else asdict(record.error),
            "line": record.line,
            "digest": record.digest,
        }

    def seen(self, values: Mapping[str, Any]) -> Seen:
        """See `Shape`."""
        id, error = values["id"], values["error"]
        if (error is None) != isinstance(values["text"], str):
            raise ValueError("it has neither a text nor an error")
        return Seen(_key(id, values["line"]), _digest(values["digest"]), error is not None)


class OpenAI:
    """Lines as OpenAI's batches give them; ours is in the body's ``scope``.

    Parameters
    ----------
    model
        What the answers say that they are from.
    """

    name = "openai"

    def __init__(self, model: str) -> None:
        self._model = model

    def values(self, record: Record) -> dict[str, Any]:
        """See `Shape`; the id holds line and digest of the request."""
        own = f"{record.line}_{record.digest}"
        answer: dict[str, Any] = {"id": f"batch_req_{own}", "custom_id": record.id}
        if record.error is None:
            status, body = 200, self._body(record, own)
        elif record.error.type == INVALID_LINE or record.id is None:
            error = {"code": record.error.type, "message": record.error.message}
            return {**answer, "response": None, "error": error}
        else:
            status = 500 if record.error.type == FAILED else 400
            body = {"error": {**asdict(record.error), "param": None, "code": None}}
        response = {"status_code": status, "request_id": f"req_{own}", "body": body}
        return {**answer, "response": response, "error": None}

    def seen(self, values: Mapping[str, Any]) -> Seen:
        """See `Shape`."""
        prefix, _, own = str(values["id"]).rpartition("batch_req_")
        line, _, digest = own.partition("_")
        if prefix or not digest:
            raise ValueError("its id is none of ours")
        response = values["response"]
        ok = response is not None and response["status_code"] == 200
        return Seen(_key(values["custom_id"], int(line)), digest, not ok)

    def _body(self, record: Record, own: str) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0}
        if record.chat:
            choice["message"] = {"role": "assistant", "content": record.text, "refusal": None}
        else:
            choice["text"] = record.text
        choice |= {"logprobs": None, "finish_reason": record.finish_reason}
        return {
            "id": f"{'chatcmpl' if record.chat else 'cmpl'}-{own}",
            "object": "chat.completion" if record.chat else "text_completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": [choice],
            "usage": usage(record),
            "scope": {
                "seed": record.seed,
                "policy": record.policy,
                "cells": cells(record),
                "evicted": record.evicted,
                "timings": rounded(record.timings),
                "no_text": record.no_text,
            },
        }


def usage(record: Record) -> dict[str, int]:
    """Return the tokens, as OpenAI names them."""
    return {
        "prompt_tokens": record.n_prompt,
        "completion_tokens": record.n_generated,
        "total_tokens": record.n_prompt + record.n_generated,
    }


def cells(record: Record) -> dict[str, int]:
    """Return the cells that the row had at most, and those that it may have."""
    return {"peak": record.cells_peak, "capacity": record.cells_capacity}


def rounded(timings: Mapping[str, float]) -> dict[str, float]:
    """Return times without digits that mean nothing."""
    return {name: round(value, 6) for name, value in timings.items()}


def _key(id: Any, line: Any) -> str:
    whole = isinstance(line, int) and not isinstance(line, bool)
    if not whole or isinstance(id, bool) or not isinstance(id, (str, int, type(None))):
        raise TypeError("its id or line is of the wrong kind")
    return key_of(id, line)


def _digest(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("its digest is no text")
    return value
