"""Bodies of requests: read within bounds of size and time, and parsed as plain JSON."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from scope_cpp.serve.errors import ApiError, bad_request, one_line

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]

DEEPEST = 64
_LONGEST_NUMBER = 40  # digits
_LONGEST_NAME = 64  # characters that are told
_EXACT = 2**53
_MOST_DIGITS = 18  # of a length


class Disconnected(Exception):
    """The client is gone: nobody to answer."""


async def read_body(
    receive: Receive, headers: Mapping[str, str], most: int, seconds: float
) -> bytes:
    """Return the body of a request.

    Raises
    ------
    ApiError
        413 for more than `most` bytes, 408 if it takes more than `seconds`, 415 if it is not sent
        as JSON.
    Disconnected
    """
    stated = headers.get("content-length", "")
    if len(stated) > _MOST_DIGITS or int(stated or 0) > most:
        raise _too_large(most)
    _require_json(headers)
    try:
        return await asyncio.wait_for(_read(receive, most), seconds)
    except asyncio.TimeoutError:
        raise ApiError(
            408,
            f"the body did not arrive within {seconds:g} s",
            code="body_timeout",
            headers={"Connection": "close"},
        ) from None


async def _read(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(most: int) -> ApiError:
    # the connection stays open: a client that is still sending would not see the answer otherwise
    return ApiError(413, f"the body has more than {most} bytes: send less", code="body_too_large")


def _require_json(headers: Mapping[str, str]) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415, "the body is not sent as JSON: set Content-Type: application/json",
            code="unsupported_media_type",
        )  # fmt: skip


def parse(body: bytes) -> dict[str, Any]:
    """Return the object of a body.

    Raises
    ------
    ApiError
        400 if it is no JSON object in UTF-8, has numbers that are none (NaN, 1e999), texts that are
        none (half of a surrogate pair) or a name twice, or is nested more than `DEEPEST` deep.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as err:
        raise bad_request(
            f"byte {err.start} of the body is not UTF-8", code="invalid_utf8"
        ) from None
    try:
        value = json.loads(
            text,
            parse_int=_int,
            parse_float=_float,
            parse_constant=_constant,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise _too_deep() from None
    except ValueError as err:
        raise bad_request(f"the body is not valid JSON: {err}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise bad_request("the body is no JSON object", code="invalid_json")
    _check_values(value)
    return value


def _check_values(value: dict[str, Any]) -> None:
    """Look at every value, level by level."""
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str):
                _check_text(item)
        if not below:
            return
        level = below
    raise _too_deep()


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as err:
        half = f"U+{ord(text[err.start]):04X}"
        raise bad_request(
            f"a text has {half}, half of a surrogate pair: give valid Unicode", code="invalid_utf8"
        ) from None


def _too_deep() -> ApiError:
    return bad_request(f"the body is nested more than {DEEPEST} deep", code="invalid_json")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names differ: of two values we could only guess which one is meant."""
    value = dict(pairs)
    if len(value) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"an object has {one_line(repr(twice), _LONGEST_NAME)} twice")
    return value


def _int(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _float(text: str) -> float:
    """A number; JSON does not tell 1.0 from 1, and neither do we."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:_LONGEST_NUMBER]} is too large")
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
