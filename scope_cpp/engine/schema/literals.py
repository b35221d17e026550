"""Numbers and values of a schema, and which of them can be kept exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from scope_cpp.engine.schema.errors import inside, refusal

MOST_EXACT = 2**53 - 1  # the engine computes in double precision
_MOST_DEEP = 32


def number(value: Any, place: str) -> int | float:
    """Return a number as the engine keeps to it: whole ones without a fraction.

    Raises
    ------
    UsageError
        If it is none, or cannot be kept exactly.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise refusal(place, "give a number")
    if not math.isfinite(value) or abs(value) > MOST_EXACT:
        raise refusal(place, f"numbers beyond {MOST_EXACT} cannot be kept exactly")
    return int(value) if value == int(value) else value


def count(value: Any, place: str) -> int:
    """Return a number of items, characters or properties."""
    whole = number(value, place)
    if not isinstance(whole, int) or whole < 0:
        raise refusal(place, "give a whole number, 0 or more")
    return whole


def literal(value: Any, place: str, level: int = 0) -> Any:
    """Return a value that an answer may be, with its numbers as the engine keeps to them."""
    if level > _MOST_DEEP:
        raise refusal(place, f"it is nested more than {_MOST_DEEP} levels deep")
    if isinstance(value, str):
        return text(value, place)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value, place)
    if isinstance(value, list):
        return [literal(item, inside(place, i), level + 1) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {
            text(key, place): literal(item, inside(place, key), level + 1)
            for key, item in value.items()
        }
    return value


def text(value: str, place: str) -> str:
    """Return a text of which every character can be written."""
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise refusal(place, "half a surrogate pair cannot be written")
    return value


def needs_escape(value: Any) -> bool:
    r"""Whether a value has a character that JSON can only write as ``\\u`` and four digits."""
    return any(
        (char < " " or char == "\x7f") and char not in "\b\f\n\r\t"
        for part in _texts(value)
        for char in part
    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value:
            yield from _texts(item)
        if isinstance(value, dict):
            yield from _texts(list(value.values()))
