"""The description of the interface, of the same table that requests are checked with."""

from __future__ import annotations

from typing import Any

from scope_cpp import __version__
from scope_cpp.serve import openai_chat, openai_completions, schema

Object = dict[str, Any]

_COUNT = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_MAYBE_TEXT = {"type": ["string", "null"]}
_NUMBER = {"type": "number"}


def _object(**properties: Object) -> Object:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Object) -> Object:
    return {"type": "array", "items": items}


def _maybe(value: Object) -> Object:
    return {"anyOf": [value, {"type": "null"}]}


_EVENT = _object(data=_TEXT)  # before OpenAPI 3.2 the schema of a stream is that of its events
_ERROR = _object(error=_object(message=_TEXT, type=_TEXT, param=_MAYBE_TEXT, code=_MAYBE_TEXT))
_USAGE = _object(
    prompt_tokens=_COUNT,
    completion_tokens=_COUNT,
    total_tokens=_COUNT,
    prompt_tokens_details=_object(cached_tokens=_COUNT),
)
_REASON = {"type": "string", "enum": ["stop", "length"]}
_TOKEN = _object(token=_TEXT, logprob=_NUMBER, bytes=_list(_COUNT))
_CHAT_LOGPROBS = _object(
    content=_list({**_TOKEN, "properties": {**_TOKEN["properties"], "top_logprobs": _list(_TOKEN)}})
)
_TEXT_LOGPROBS = _object(
    tokens=_list(_TEXT),
    token_logprobs=_list(_NUMBER),
    top_logprobs=_list({"type": "object", "additionalProperties": _NUMBER}),
    text_offset=_list(_COUNT),
)


def _answer(kind: str, **choice: Object) -> Object:
    return _object(
        id=_TEXT,
        object={"type": "string", "enum": [kind]},
        created=_COUNT,
        model=_TEXT,
        choices=_list(_object(index=_COUNT, finish_reason=_REASON, **choice)),
        usage=_USAGE,
    )


_CHAT = _answer(
    "chat.completion",
    message=_object(role=_TEXT, content=_TEXT),
    logprobs=_maybe(_CHAT_LOGPROBS),
)
_COMPLETION = _answer("text_completion", text=_TEXT, logprobs=_maybe(_TEXT_LOGPROBS))
_MODEL = _object(id=_TEXT, object=_TEXT, created=_COUNT, owned_by=_TEXT)
_TOKENS = _object(tokens={"type": "array"})
_MODELS = _object(object=_TEXT, data=_list(_MODEL))


def _content(kind: str, value: Object) -> Object:
    return {kind: {"schema": value}}


def _operation(
    summary: str,
    answer: Object,
    body: Object | None = None,
    stream: bool = False,
    open_to_all: bool = False,
    **more: Any,
) -> Object:
    """One method of a path, with all that it may answer."""
    content = _content("application/json", answer)
    if stream:
        content |= _content("text/event-stream", _EVENT)
    codes = {
        "400": "Something is wrong with the request.",
        "401": "No valid API key.",
        "403": "Refused: another host or page.",
        "404": "No such model.",
        "405": "No such method.",
        "408": "The request did not arrive in time.",
        "413": "The body is too large.",
        "415": "The body is not sent as JSON.",
        "429": "All places are taken.",
        "500": "The server failed.",
        "503": "Shutting down, or too many connections.",
        "504": "The answer took too long.",
    }
    error = _content("application/json", _ERROR)
    responses = {"200": {"description": "Done.", "content": content}} | {
        code: {"description": text, "content": error} for code, text in codes.items()
    }
    operation: Object = {"summary": summary, "responses": responses, **more}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _content("application/json", body)}
    if open_to_all:
        operation["security"] = []
    return operation


def describe(n_predict: int, keys: bool) -> Object:
    """Return the description.

    Parameters
    ----------
    n_predict
        Longest answer.
    keys
        Whether clients need a key.
    """
    paths = {
        openai_chat.PATH: {
            "post": _operation("Answer a chat.", _CHAT, schema.chat(n_predict), stream=True)
        },
        openai_completions.PATH: {
            "post": _operation(
                "Go on with a text.", _COMPLETION, schema.completions(n_predict), stream=True
            )
        },
        "/v1/models": {"get": _operation("List the model.", _MODELS)},
        "/v1/models/{id}": {
            "get": _operation(
                "Tell of the model.",
                _MODEL,
                parameters=[{"name": "id", "in": "path", "required": True, "schema": _TEXT}],
            )
        },
        "/tokenize": {
            "post": _operation(
                "A text in tokens.", _object(tokens={"type": "array"}), schema.TOKENIZE
            )
        },
        "/detokenize": {
            "post": _operation("Tokens as a text.", _object(content=_TEXT), schema.DETOKENIZE)
        },
        "/health": {
            "get": _operation("Is it there?", _object(status=_TEXT), open_to_all=True),
        },
    }
    description: Object = {
        "openapi": "3.1.0",
        "info": {"title": "scope-cpp", "version": __version__},
        "paths": paths,
    }
    if keys:
        scheme = {"key": {"type": "http", "scheme": "bearer"}}
        description |= {"components": {"securitySchemes": scheme}, "security": [{"key": []}]}
    return description
