"""The messages of a chat as they come: texts, or lists of parts that are texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from scope_cpp.errors import UsageError


def read_messages(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Return messages whose contents are text, as templates get them.

    Parts of type ``text`` are put together with line breaks, and a developer's message is the
    system's, as in OpenAI's interface.

    Raises
    ------
    UsageError
        If there are none, or one has no role, no content, or what is no text.
    """
    if not messages:
        raise UsageError("the chat has no message: give at least one")
    return [_message(i, message) for i, message in enumerate(messages)]


def utf8(what: str, text: str) -> str:
    """Return `text`, which JSON may have given half of a character.

    Raises
    ------
    UsageError
        If it has half a character in it.
    """
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise UsageError(f"{what} has half a character ({text[err.start]!r}) in it") from None
    return text


def _message(i: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise UsageError(f"message {i} has no role, or it is no text")
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(_part(i, part) for part in content)
    if not isinstance(content, str):
        raise UsageError(f"message {i} has no content, or it is no text")
    role = "system" if message["role"] == "developer" else message["role"]
    read = {**message, "role": role, "content": utf8(f"message {i}", content)}
    try:
        json.dumps(read)
    except (TypeError, ValueError, RecursionError) as err:
        raise UsageError(f"message {i} has what JSON can't hold: {err}") from None
    return read


def _part(i: int, part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind != "text" or not isinstance(part.get("text"), str):
        raise UsageError(f"message {i} has a part of type {kind!r}: text is all that is read")
    return str(part["text"])
