"""Chat messages to a prompt, by the model's own template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from scope_cpp.engine.model import Model
from scope_cpp.errors import UsageError


def format_chat(
    model: Model, messages: Sequence[Mapping[str, Any]], template: str | None = None
) -> tuple[str, list[str]]:
    """Return the prompt of a chat, and the strings that end the answer.

    Parameters
    ----------
    model : Model
    messages : sequence of mappings
        Each with ``role`` and ``content``.
    template : str, optional
        Jinja text that takes the place of the model's own; it is run in a sandbox.

    Returns
    -------
    prompt : str
        For ``model.tokenize(prompt, add_special=True, parse_special=True)``: a BOS token that the
        template wrote and the tokenizer adds anyway is left out, as in llama.cpp's own tools.
    stops : list of str

    Raises
    ------
    UsageError
        Without a template, for a template that fails, or a message without role or content.
    """
    source = template if template is not None else model.chat_template
    if source is None:
        raise UsageError(
            f"{model.path} has no chat template: give one (--chat-template) or a raw prompt"
        )
    _check(messages)
    bos, eos = _text(model, model.bos_token), _text(model, model.eos_token)
    result = _render(source, messages, bos, eos)
    prompt = result.prompt
    if bos and model.add_bos:
        prompt = prompt.removeprefix(bos)
    return prompt, [stop for stop in result.stop if stop]


def _check(messages: Sequence[Mapping[str, Any]]) -> None:
    if not messages:
        raise UsageError("the chat has no message: give at least one")
    for i, message in enumerate(messages):
        for key in ("role", "content"):
            if not isinstance(message, Mapping) or key not in message:
                raise UsageError(f"message {i} of the chat has no {key}")


def _render(source: str, messages: Sequence[Mapping[str, Any]], bos: str, eos: str) -> Any:
    formatter = import_module("llama_cpp.llama_chat_format").Jinja2ChatFormatter
    try:
        return formatter(source, eos, bos)(messages=list(messages))
    except Exception as err:  # a template runs code: any exception is its author's
        line = getattr(err, "lineno", None)
        where = f" (line {line})" if line else ""
        cause = " ".join(str(err).split()) or type(err).__name__
        raise UsageError(f"the chat template failed{where}: {cause}") from None


def _text(model: Model, token: int | None) -> str:
    if token is None:
        return ""
    return model.token_to_piece(token, special=True).decode("utf-8", errors="replace")
