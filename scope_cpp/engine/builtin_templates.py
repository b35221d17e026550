"""The chat templates that llama.cpp has built in and knows by name, such as ``chatml``."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from scope_cpp.errors import UsageError
from scope_cpp.native.library import llama_cpp


@cache
def names() -> tuple[str, ...]:
    """Return the names, in order."""
    n = llama_cpp.llama_chat_builtin_templates(None, 0)
    array = (ctypes.c_char_p * n)()
    llama_cpp.llama_chat_builtin_templates(array, n)
    return tuple(sorted(name.decode() for name in array if name is not None))


def write(
    name: str, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
) -> str:
    """Return the prompt that the template `name` makes of messages whose contents are text.

    Raises
    ------
    UsageError
        For a message with a NUL character, where llama.cpp takes a text to end.
    """
    chat = (llama_cpp.llama_chat_message * len(messages))()
    for slot, message in zip(chat, messages, strict=True):
        slot.role, slot.content = _bytes(message["role"]), _bytes(message["content"])
    size = 256 + 2 * sum(len(message.content) for message in chat)

    def apply(size: int) -> tuple[int, bytes]:
        buffer = ctypes.create_string_buffer(size)
        arguments = name.encode(), chat, len(chat), add_generation_prompt, buffer, size
        return llama_cpp.llama_chat_apply_template(*arguments), buffer.raw

    n, prompt = apply(size)
    if n > size:
        n, prompt = apply(n)
    if n < 0:
        raise UsageError(f"llama.cpp cannot write the chat template {name!r}: give another")
    return prompt[:n].decode("utf-8", errors="replace")


def _bytes(text: str) -> bytes:
    if "\0" in text:
        raise UsageError(
            "a message has a NUL character, which a built-in chat template can't hold: leave it out"
        )
    return text.encode("utf-8", errors="replace")
