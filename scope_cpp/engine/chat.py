"""Chat messages to a prompt, by the model's own template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from scope_cpp.engine import builtin_templates
from scope_cpp.engine.jinja_sandbox import TemplateError, render
from scope_cpp.engine.messages import read_messages
from scope_cpp.engine.model import CUT, Model
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.near import did_you_mean

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
_TELLING = 16  # characters of a text that a prompt does not have by chance
_Messages = Sequence[Mapping[str, Any]]
_Write = Callable[[_Messages], str]


def format_chat(
    model: Model,
    messages: _Messages,
    template: str | None = None,
    *,
    add_generation_prompt: bool = True,
) -> tuple[str, list[str]]:
    """Return the prompt of a chat, and the strings that end the answer.

    Control tokens come from the template only: where a message spells one out, such as
    ``<|im_end|>``, it stays text (llama.cpp's own tools read it as the token).

    A system message that the template refuses or leaves out is put before the first user's text,
    with a newline between, as llama.cpp's tools do.

    Parameters
    ----------
    model : Model
    messages : sequence of mappings
        Each with ``role`` and ``content``, see `read_messages`. A template that wants a list of
        parts gets ``[{"type": "text", "text": content}]``.
    template : str, optional
        Takes the place of the model's own: the name of one of llama.cpp's templates, such as
        ``chatml``, Jinja text, or ``plain`` for `PLAIN_TEMPLATE`: the system's text and an empty
        line, then lines that begin with ``User:`` and ``Assistant:``, where ``User:`` on a new line
        ends the answer. Jinja is rendered by `jinja_sandbox`.
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
        Without a template, for an unknown name, for one that fails or leaves out the last user
        message, or a message without role or content.
    ScopeError
        Where that is the fault of the model's own template, and not of messages that it refuses.
    """
    messages = read_messages(messages)
    if template is not None:
        check_template(template)
        return _format(model, messages, template, add_generation_prompt)
    own = model.chat_template
    if own is None:
        raise UsageError(
            f"{model.path} has no chat template: give a --chat-template ({PLAIN!r} is the "
            "simplest) or a raw prompt"
        )
    try:
        return _format(model, messages, own, add_generation_prompt)
    except TemplateError as err:
        if err.refused and _takes_any(model, own):
            raise
        raise ScopeError(f"{model.path.name}: {err}") from None


def _format(
    model: Model, messages: _Messages, source: str, add_generation_prompt: bool
) -> tuple[str, list[str]]:
    eos = _text(model, model.eos_token)
    stops = [eos] if eos else []
    if source == PLAIN:
        source, stops = PLAIN_TEMPLATE, [*stops, *PLAIN_STOPS]
    bos = _text(model, model.bos_token)
    write = _writer(source, bos, eos, add_generation_prompt)
    prompt = _prompt(write, [as_text(model, message) for message in messages])
    if bos and model.add_bos:
        prompt = prompt.removeprefix(bos)
    return prompt, stops


def _takes_any(model: Model, source: str) -> bool:
    """Whether a template takes the plainest messages."""
    try:
        _format(model, [{"role": "user", "content": _PROBE}], source, True)
    except TemplateError:
        return False
    return True


def check_template(template: str) -> None:
    """Refuse a template that is given by an unknown name.

    Raises
    ------
    UsageError
        With the names that there are.
    """
    if "{" not in template and template not in template_names():
        near = did_you_mean(template[:40], template_names())
        raise UsageError(
            f"there is no chat template {template[:40]!r}{near}: give Jinja text, a file of it "
            f"(--chat-template-file), or one of {', '.join(template_names())}"
        )


def template_names() -> list[str]:
    """Return the names that a chat template can be given by."""
    return [PLAIN, *builtin_templates.names()]


def as_text(model: Model, value: Any) -> Any:
    """Return a text, or JSON values, in which the names of control tokens are cut in two.

    `Model.tokenize` reads what is cut by `CUT` as the text that it is.
    """
    if isinstance(value, str):
        for name in model.control_names:
            value = value.replace(name, name[0] + CUT + name[1:])
        return value
    if isinstance(value, Mapping):
        return {as_text(model, key): as_text(model, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_text(model, item) for item in value]
    return value


# what writes a prompt: a built-in template, or Jinja with all variables but the messages


def _writer(source: str, bos: str, eos: str, add_generation_prompt: bool) -> _Write:
    if source in builtin_templates.names():
        return lambda messages: builtin_templates.write(
            source, messages, add_generation_prompt=add_generation_prompt
        )
    takes_parts = _takes_parts(source, bos, eos)

    def write(messages: _Messages) -> str:
        if takes_parts:
            messages = _in_parts(messages)
        return _jinja(source, bos, eos, messages, add_generation_prompt)

    return write


def _jinja(
    source: str, bos: str, eos: str, messages: _Messages, add_generation_prompt: bool
) -> str:
    variables = {
        "bos_token": bos,
        "eos_token": eos,
        "add_generation_prompt": add_generation_prompt,
        **dict.fromkeys(("functions", "function_call", "tools", "tool_choice", "documents")),
    }
    return render(source, {"messages": messages, **variables})


def _in_parts(messages: _Messages) -> _Messages:
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]


@lru_cache(maxsize=16)
def _takes_parts(source: str, bos: str, eos: str) -> bool:
    """Whether a template shows a text only as a list of parts, as those of models with eyes do."""
    user = {"role": "user", "content": _PROBE}
    for messages in ([user], [{"role": "system", "content": "x"}, user]):
        for parts in (False, True):
            given = _in_parts(messages) if parts else messages
            try:
                shown = _PROBE in _jinja(source, bos, eos, given, True)
            except TemplateError as err:
                if err.exhausted:  # it would be every time
                    raise
                continue
            if shown:
                return parts
    return False


# the system message where the template can take it


def _prompt(write: _Write, messages: _Messages) -> str:
    prompt = _with_system(write, messages)
    last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
    if last is not None and not _shows(write, messages, last, prompt):
        raise TemplateError("it leaves out the last user message")
    return prompt


def _with_system(write: _Write, messages: _Messages) -> str:
    merged = _merged(messages)
    if merged is None:
        return write(messages)
    try:
        prompt = write(messages)
    except TemplateError as err:
        if not err.refused:
            raise
        return write(merged)
    return prompt if _shows(write, messages, 0, prompt) else write(merged)


def _shows(write: _Write, messages: _Messages, i: int, prompt: str) -> bool:
    """Whether message `i` is in the prompt, perhaps in a form that the template gave it."""
    text = messages[i]["content"].strip()
    if len(text) >= _TELLING and text in prompt:
        return True
    probe = [*messages[:i], {**messages[i], "content": _PROBE}, *messages[i + 1 :]]
    try:
        return _PROBE in write(probe)
    except TemplateError:
        return text in prompt


def _merged(messages: _Messages) -> _Messages | None:
    """Return the messages with the system's in the first user's; ``None`` if there are not both."""
    if len(messages) < 2 or [m["role"] for m in messages[:2]] != ["system", "user"]:
        return None
    system, user = messages[:2]
    return [{**user, "content": f"{system['content']}\n{user['content']}"}, *messages[2:]]


def _text(model: Model, token: int | None) -> str:
    if token is None:
        return ""
    return model.token_to_piece(token, special=True).decode("utf-8", errors="replace")
