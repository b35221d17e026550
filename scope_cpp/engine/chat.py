"""Chat messages to a prompt, by the model's own template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scope_cpp.engine.jinja_sandbox import TemplateError, render
from scope_cpp.engine.model import CUT, Model
from scope_cpp.errors import UsageError

PLAIN = "plain"
PLAIN_TEMPLATE = """\
{% for message in messages %}
{% if message.role == "system" %}
{{ message.content | trim }}

{% else %}
{{ "User" if message.role == "user" else "Assistant" }}: {{ message.content | trim }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
Assistant:{% endif %}"""
PLAIN_STOPS = ("\nUser:",)

_PROBE = "3141592653589793"  # a text that no template changes
_Messages = Sequence[Mapping[str, Any]]


def format_chat(
    model: Model,
    messages: _Messages,
    template: str | None = None,
    *,
    add_generation_prompt: bool = True,
) -> tuple[str, list[str]]:
    """Return the prompt of a chat, and the strings that end the answer.

    Control tokens come from the template only: where a user's message spells one out, such as
    ``<|im_end|>``, it stays text (llama.cpp's own tools read it as the token).

    A system message that the template refuses or leaves out is put before the first user's text,
    with a newline between, as llama.cpp's tools do.

    Parameters
    ----------
    model : Model
    messages : sequence of mappings
        Each with ``role`` and ``content``, both text.
    template : str, optional
        Jinja text that takes the place of the model's own, or ``plain`` for `PLAIN_TEMPLATE`:
        the system's text and an empty line, then lines that begin with ``User:`` and
        ``Assistant:``, where ``User:`` on a new line ends the answer. Templates are rendered by
        `jinja_sandbox`.
    add_generation_prompt : bool
        Begin the assistant's answer. A template without such a beginning is taken as it is.

    Returns
    -------
    prompt : str
        For ``model.tokenize(prompt, add_special=True, parse_special=True)``: a BOS token that the
        template wrote and the tokenizer adds anyway is left out, as in llama.cpp's own tools.
    stops : list of str

    Raises
    ------
    UsageError
        Without a template, for one that fails or leaves out the last user message, or a message
        without role or content.
    """
    source = template if template is not None else model.chat_template
    if source is None:
        raise UsageError(
            f"{model.path} has no chat template: give one (--chat-template, of which {PLAIN!r} is"
            " the simplest) or a raw prompt"
        )
    _check(messages)
    eos = _text(model, model.eos_token)
    stops = [eos] if eos else []
    if source == PLAIN:
        source, stops = PLAIN_TEMPLATE, [*stops, *PLAIN_STOPS]
    bos = _text(model, model.bos_token)
    template_ = _Template(source, bos, eos, add_generation_prompt)
    prompt = template_.prompt([_literal(model, message) for message in messages])
    if bos and model.add_bos:
        prompt = prompt.removeprefix(bos)
    return prompt, stops


class _Template:
    """A template with all variables but the messages."""

    def __init__(self, source: str, bos: str, eos: str, add_generation_prompt: bool) -> None:
        self._source = source
        self._variables = {
            "bos_token": bos,
            "eos_token": eos,
            "add_generation_prompt": add_generation_prompt,
            **dict.fromkeys(("functions", "function_call", "tools", "tool_choice")),
        }

    def prompt(self, messages: _Messages) -> str:
        """Return the prompt, with the system message where the template can take it."""
        prompt = self._with_system(messages)
        last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
        if last is not None and not self._shows(messages, last, prompt):
            raise UsageError(
                "the chat template leaves out the last user message: give another (--chat-template)"
            )
        return prompt

    def _with_system(self, messages: _Messages) -> str:
        merged = _merged(messages)
        if merged is None:
            return self._render(messages)
        try:
            prompt = self._render(messages)
        except TemplateError as err:
            if not err.refused:
                raise
            return self._render(merged)
        return prompt if self._shows(messages, 0, prompt) else self._render(merged)

    def _shows(self, messages: _Messages, i: int, prompt: str) -> bool:
        """Whether message `i` is in the prompt, perhaps in a form that the template gave it."""
        if messages[i]["content"].strip() in prompt:
            return True
        probe = [*messages[:i], {**messages[i], "content": _PROBE}, *messages[i + 1 :]]
        try:
            return _PROBE in self._render(probe)
        except TemplateError:
            return False

    def _render(self, messages: _Messages) -> str:
        return render(self._source, {"messages": messages, **self._variables})


def _check(messages: _Messages) -> None:
    if not messages:
        raise UsageError("the chat has no message: give at least one")
    for i, message in enumerate(messages):
        for key in ("role", "content"):
            if not isinstance(message, Mapping) or not isinstance(message.get(key), str):
                raise UsageError(f"message {i} of the chat has no {key}, or it is no text")


def _merged(messages: _Messages) -> _Messages | None:
    """Return the messages with the system's in the first user's; ``None`` if there are not both."""
    if len(messages) < 2 or [m["role"] for m in messages[:2]] != ["system", "user"]:
        return None
    system, user = messages[:2]
    return [{**user, "content": f"{system['content']}\n{user['content']}"}, *messages[2:]]


def _literal(model: Model, message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the message; the names of control tokens in a user's text are cut in two."""
    text = message["content"]
    if message["role"] == "user":
        for name in model.control_names:
            text = text.replace(name, name[0] + CUT + name[1:])
    return {**message, "content": text}


def _text(model: Model, token: int | None) -> str:
    if token is None:
        return ""
    return model.token_to_piece(token, special=True).decode("utf-8", errors="replace")
