"""Prompts as they come: a text, tokens, or the messages of a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral

from scope_cpp.engine.arguments import is_list
from scope_cpp.engine.chat import format_chat
from scope_cpp.engine.model import Model
from scope_cpp.errors import UsageError

Messages = Sequence[Mapping[str, object]]
Prompt = str | Sequence[int] | Messages

_A_LIST = "give a text, a list of tokens, or a list of messages such as " + (
    "{'role': 'user', 'content': 'Hello'}"
)


def read_prompt(
    model: Model, prompt: Prompt, template: str | None, parse_special: bool
) -> tuple[list[int], list[str]]:
    """Return the tokens of a prompt, and strings that end what is written after it.

    Parameters
    ----------
    model
    prompt
        Text that is continued as it is, tokens, or messages for the chat template.
    template
        In place of the model's own, for messages; see `format_chat`.
    parse_special
        Whether a text's control tokens are read as such.

    Raises
    ------
    UsageError
        If it is none of these, is empty, or the template can't be had or fails.
    """
    if not (isinstance(prompt, str) or is_list(prompt)):
        raise UsageError(f"the prompt is of type {type(prompt).__name__}: {_A_LIST}")
    if len(prompt) and not isinstance(prompt, str) and isinstance(prompt[0], Mapping):
        text, stops = format_chat(model, prompt, template)  # type: ignore[arg-type]
        return model.tokenize(text, add_special=True, parse_special=True), stops
    if template is not None:
        raise UsageError("template is for messages, the prompt is a text: leave one out")
    return prompt_tokens(model, prompt, parse_special), []  # type: ignore[arg-type]


def prompt_tokens(model: Model, prompt: str | Sequence[int], parse_special: bool) -> list[int]:
    """Return the tokens of a text, or tokens as they are given.

    Raises
    ------
    UsageError
        If there are none, or some are not of this model.
    """
    if isinstance(prompt, str):
        tokens = model.tokenize(prompt, parse_special=parse_special) if prompt else []
        if not tokens:
            raise UsageError("the prompt is empty: give a text")
        return tokens
    if not len(prompt):
        raise UsageError("the prompt is empty: give at least one token")
    # the usual case is looked at in one go: prompts are long, and other rows wait meanwhile
    plain = set(map(type, prompt)) == {int}
    tokens = list(prompt) if plain else [_token(value) for value in prompt]
    if min(tokens) < 0 or max(tokens) >= model.n_vocab:
        wrong = next(token for token in tokens if not 0 <= token < model.n_vocab)
        raise UsageError(f"token {wrong} is outside of the vocabulary of {model.n_vocab}")
    return tokens


def _token(value: object) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UsageError(f"the prompt has {value!r} where a token must be: {_A_LIST}")
    return int(value)
