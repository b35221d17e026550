"""Messages as the text that the model reads, and that text in tokens, piece by piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scope_cpp.engine.chat import PLAIN, format_chat
from scope_cpp.engine.model import Model
from scope_cpp.errors import ScopeError, UsageError

PLAIN_WARNING = (
    "the model has no chat template: messages are written as 'User: ...' and 'Assistant: ...', "
    "which it may not know; --chat-template gives one"
)


def is_plain(model: Model, template: str | None) -> bool:
    """Whether messages are rendered without a template, see `render`."""
    return template is None and model.chat_template is None


def render(
    model: Model, messages: Sequence[Mapping[str, Any]], template: str | None
) -> tuple[str, list[str]]:
    """Return the text of a chat up to where the next answer begins, and what ends an answer.

    Without a template the built-in plain one is used, see `format_chat`.

    Raises
    ------
    UsageError
        If the template fails.
    """
    return format_chat(model, messages, PLAIN if is_plain(model, template) else template)


def problem(model: Model, template: str | None) -> ScopeError | None:
    """Return the error by which no chat can be rendered with a template; ``None`` if one can."""
    user = {"role": "user", "content": "Hello."}
    errors = []
    for messages in ([user], [{"role": "system", "content": "Hello."}, user]):
        try:
            format_chat(model, messages, template)
            return None
        except ScopeError as err:
            errors.append(err)
    return errors[0]


def tokenize(model: Model, text: str, first: bool, after_special: bool) -> list[int]:
    """Tokens of a piece of a chat.

    Parameters
    ----------
    model, text
        Special tokens that are written in the text are read as such.
    first
        Whether the chat begins with it.
    after_special
        Whether what comes before ends with a control token. SentencePiece puts a space before a
        text there, but not in the middle of one.

    Raises
    ------
    UsageError
        If the vocabulary can't express the text.
    """
    tokens = model.tokenize(text, add_special=first, parse_special=True)
    if first or after_special or not _adds_space(model):
        return tokens
    # a new line is a token of its own there, and no token goes across it
    line = model.tokenize("\n", add_special=False)
    longer = model.tokenize("\n" + text, add_special=False, parse_special=True)
    return longer[len(line) :] if longer[: len(line)] == line else tokens


def openings(
    model: Model, messages: Sequence[Mapping[str, Any]], template: str | None
) -> list[list[int]]:
    """Tokens of two chats whose user messages have nothing in common.

    What they begin with alike is what comes before the first user message: the system message, if
    `messages` has one, and what the template writes around it.
    """
    system = [message for message in messages if message["role"] == "system"]
    texts = [render(model, [*system, {"role": "user", "content": x}], template)[0] for x in "aZ"]
    return [tokenize(model, text, first=True, after_special=True) for text in texts]


def _adds_space(model: Model) -> bool:
    try:
        tokens = model.tokenize("a", add_special=False)
    except UsageError:
        return False
    return bool(tokens) and model.token_to_piece(tokens[0]).startswith(b" ")
