"""Rows of single lines: JSON, OpenAI's requests, plain text; what is wrong becomes an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from scope_cpp.batch.input_lines import MOST_LINE, Line
from scope_cpp.batch.openai import Body, read_body, read_request
from scope_cpp.batch.rows import INVALID_LINE, INVALID_REQUEST, Failure, Row, digest_of
from scope_cpp.errors import UsageError
from scope_cpp.texts import NotText, require_utf8


def jsonl(found: Iterable[Line]) -> Iterator[Row]:
    """Yield the rows of JSON lines; empty ones are passed over."""
    return _each(found, _native)


def openai(found: Iterable[Line]) -> Iterator[Row]:
    """Yield the rows of OpenAI's batch lines."""
    return _each(found, _request)


def _each(found: Iterable[Line], read: Callable[[int, Line], Row]) -> Iterator[Row]:
    index = 0
    for line in found:
        if line.data.strip():
            yield bad_line(index, line) or read(index, line)
            index += 1


def text(found: Iterable[Line]) -> Iterator[Row]:
    """Yield a row for each line that is not empty: a prompt."""
    return _each(found, _prompt)


def _prompt(index: int, line: Line) -> Row:
    text = line.data.decode()
    return Row(index, line.number, line.number, digest_of({"prompt": text}), prompt=text)


def bad_line(index: int, line: Line) -> Row | None:
    """Return the row of a line that is too long or no text, ``None`` if it is neither."""
    if line.too_long:
        return invalid(index, line, f"is longer than {MOST_LINE} bytes: shorten it")
    try:
        require_utf8(line.data)
    except NotText as err:
        return invalid(index, line, f"can't be read: {err}")
    return None


def invalid(index: int, line: Line, what: str) -> Row:
    """Return the row of a line that can't be read."""
    why = Failure(INVALID_LINE, f"line {line.number} {what}")
    return Row(index, line.number, None, digest_of(line.data), error=why)


def _object(line: Line) -> dict[str, Any]:
    """Return the JSON object of a line.

    Raises
    ------
    ValueError
        With what it is instead.
    """
    try:
        values = json.loads(line.data)
    except json.JSONDecodeError as err:
        raise ValueError(f"is no JSON: {err.msg}, column {err.colno}") from None
    except (ValueError, RecursionError) as err:
        reason = "nested too deeply" if isinstance(err, RecursionError) else str(err)
        raise ValueError(f"is no JSON that can be read: {reason}") from None
    if not isinstance(values, dict):
        raise ValueError("is no JSON object: write {…}")
    return values


def _native(index: int, line: Line) -> Row:
    try:
        values = _object(line)
        if "custom_id" in values and "body" in values:
            raise ValueError("is one of OpenAI's batch lines among others: give --format openai")
        given = values.get("id")
        id = line.number if given is None else _checked_id("id", given)
        digest = _digest(values)
    except ValueError as err:
        return invalid(index, line, str(err))
    body = {name: value for name, value in values.items() if name != "id"}
    return filled(Row(index, line.number, id, digest), lambda: (read_body(body), False))


def _request(index: int, line: Line) -> Row:
    try:
        values = _object(line)
        if not isinstance(values.get("custom_id"), str):
            raise ValueError("has no custom_id, or it is no text: each of OpenAI's lines has one")
        id = _checked_id("custom_id", values["custom_id"])
        digest = _digest(values)
    except ValueError as err:
        return invalid(index, line, str(err))
    return filled(Row(index, line.number, id, digest), lambda: read_request(values))


def _digest(values: dict[str, Any]) -> str:
    try:
        return digest_of(values)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _checked_id(name: str, value: Any) -> str | int:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise ValueError(f"has an {name} that is neither a text nor a whole number")
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(f"has an {name} with half a character in it")
    return value


def filled(row: Row, read: Callable[[], tuple[Body, bool]]) -> Row:
    """Return the row with what it asks, or what is wrong with that."""
    try:
        body, chat = read()
    except (UsageError, RecursionError) as err:
        why = "nested too deeply" if isinstance(err, RecursionError) else " ".join(str(err).split())
        return _with(row, error=Failure(INVALID_REQUEST, why))
    return _with(row, prompt=body.prompt, messages=body.messages, options=body.options, chat=chat)


def _with(row: Row, **values: Any) -> Row:
    return Row(row.index, row.line, row.id, row.digest, **values)
