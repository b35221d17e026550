"""Lines of OpenAI's batch files: a request each, as its API takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scope_cpp.engine.messages import read_messages, utf8
from scope_cpp.engine.parallel.options import Options, parse_options, shown
from scope_cpp.errors import UsageError
from scope_cpp.near import valid_are

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

_OF_A_LINE = ("body", "custom_id", "method", "url")

# keys of a body that change nothing of an answer, or nothing here: there is one model
_WITHOUT_EFFECT = {
    "model", "user", "metadata", "store", "service_tier", "safety_identifier",
    "prompt_cache_key", "stream_options", "parallel_tool_calls",
}  # fmt: skip

# what is asked for by other values is not to be had, and why
_ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "stream": ((False,), "a file holds whole answers"),
    "n": ((1,), "a row has one answer; give as many rows, with ids of their own"),
    "best_of": ((1,), "a row has one answer"),
    "logprobs": ((False,), "records hold no log probabilities"),
    "top_logprobs": ((0,), "records hold no log probabilities"),
    "echo": ((False,), "the answer has no prompt in it"),
    "suffix": (("",), "text is written after the prompt only"),
    "tools": (([],), "functions are not called"),
    "functions": (([],), "functions are not called"),
    "tool_choice": (("none", "auto"), "functions are not called"),
    "function_call": (("none", "auto"), "functions are not called"),
    "modalities": ((["text"],), "answers are text"),
}


@dataclass(frozen=True)
class Body:
    """What a request asks: a prompt or messages, and options."""

    prompt: str | tuple[int, ...] | None
    messages: tuple[Mapping[str, Any], ...] | None
    options: Options


def read_request(values: Mapping[str, Any]) -> tuple[Body, bool]:
    """Return what a line asks, and whether it is a chat.

    Raises
    ------
    UsageError
        For a method, an address or a key of the body that is unknown, or a wrong value.
    """
    unknown = sorted(set(values) - set(_OF_A_LINE))
    if unknown:
        raise UsageError(f"unknown key {unknown[0]!r}{valid_are(unknown[0], _OF_A_LINE)}")
    if values.get("method", "POST") != "POST":
        raise UsageError(f"method {values['method']!r}: POST is the only one")
    url, body = values.get("url"), values.get("body")
    if url not in (CHAT, COMPLETIONS):
        raise UsageError(f"url {url!r}: answers are to be had from {CHAT} and {COMPLETIONS}")
    if not isinstance(body, dict):
        raise UsageError("body is no JSON object")
    left = dict(body)
    chat = url == CHAT
    for name in _WITHOUT_EFFECT:
        left.pop(name, None)
    for name, (allowed, why) in _ONLY.items():
        value = left.pop(name, None)
        if value is not None and not any(value is a or value == a for a in allowed):
            raise UsageError(f"{name} {shown(value)} is not to be had: {why}")
    left.update(_extension(left))
    return read_body(left, ("messages",) if chat else ("prompt",)), chat


def _extension(body: dict[str, Any]) -> dict[str, Any]:
    """Take ``scope`` out of a body: options of the cache that OpenAI does not know."""
    extension = body.pop("scope", None) or {}
    if not isinstance(extension, dict):
        raise UsageError("scope is no JSON object")
    twice = sorted(set(extension) & set(body))
    if twice:
        raise UsageError(f"{twice[0]} is given in scope and beside it: leave one out")
    return extension


def read_body(values: dict[str, Any], texts: tuple[str, ...] = ("prompt", "messages")) -> Body:
    """Return what a row asks, of keys that are a prompt or messages and options.

    Parameters
    ----------
    values
        Decoded JSON.
    texts
        Which of ``prompt`` and ``messages`` may be there; exactly one must.

    Raises
    ------
    UsageError
        If not, or for an unknown key or a wrong value.
    """
    found = [name for name in ("prompt", "messages") if values.get(name) is not None]
    if len(found) > 1:
        raise UsageError("prompt and messages are both given: leave one out")
    if not found or found[0] not in texts:
        raise UsageError(f"there is no {' and no '.join(texts)}")
    rest = {name: value for name, value in values.items() if name not in ("prompt", "messages")}
    options = parse_options(rest, others=texts)
    value = values[found[0]]
    if found[0] == "prompt":
        return Body(read_prompt(value), None, options)
    return Body(None, _messages(value), options)


def read_prompt(value: Any) -> str | tuple[int, ...]:
    """Return a prompt: text, or token ids.

    Raises
    ------
    UsageError
        For anything else.
    """
    if isinstance(value, str):
        if not value.strip():
            raise UsageError("the prompt is empty: give a text")
        return utf8("the prompt", value)
    whole = isinstance(value, list) and value
    if whole and all(isinstance(t, int) and not isinstance(t, bool) for t in value):
        return tuple(value)
    raise UsageError("prompt is neither a text nor a list of tokens: give one row for each prompt")


def _messages(value: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not value:
        raise UsageError("messages is no list of messages: give at least one")
    return tuple(read_messages(value))
