"""``/set``: the sampling flags by their names, checked as on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.sampling_params import RANGES, SamplingParams
from scope_cpp.errors import UsageError, WrongValue
from scope_cpp.near import did_you_mean, valid_are

from .. import convert
from ..escapes import unescaped
from ..flags import LengthFlags, SamplingFlags
from ..groups import spellings

_ON, _OFF = ("on", "true", "yes", "1"), ("off", "false", "no", "0")
_SMALL = 1  # ends of ranges beyond it are nothing that people want
_OTHERS = {"n_predict": ["-1", "512", "2000"], "stop": [r"\n", r"\n\n"]}
_FROM_FILE = {"grammar_file": "grammar", "json_schema_file": "json_schema"}


def names() -> dict[str, tuple[type, str]]:
    """Spellings without dashes, and the group and field that they stand for."""
    return {
        spelling.lstrip("-"): (group, name)
        for group in (SamplingFlags, LengthFlags)
        for name, words, _ in _flags(group)
        for spelling in words
    }


def spelled(name: str) -> str:
    """Return a name as `names` and ``/set`` spell it: ``top-k`` for ``--top_k``."""
    return name.lstrip("-").replace("_", "-")


def offered(name: str) -> list[str] | None:
    """Return what a value may be: its default, the ends of its range, on and off.

    ``None`` stands for the name of a file.
    """
    group, field = names().get(spelled(name), (None, ""))
    if field in _FROM_FILE:
        return None
    words = ["default"] if group else []
    if field == "ignore_eos":
        words += [_ON[0], _OFF[0]]
    elif field in RANGES:
        allowed = RANGES[field]
        usual = getattr(SamplingParams, field)
        ends = (end for end in (allowed.low, allowed.high) if abs(end) <= _SMALL)
        words += sorted({f"{end:g}" for end in (usual, *ends)})
    return words + _OTHERS.get(field, [])


def change(conversation: Conversation, name: str, text: str) -> None:
    """Set a value from the next answer on; ``default`` is the model's own.

    Raises
    ------
    UsageError
        For an unknown name or a value that the flag refuses; nothing is changed.
    """
    known = names()
    name = spelled(name)
    if name not in known:
        whole = sorted(one for one in known if len(one) > 1)
        meant = did_you_mean(name, known) or valid_are(name, whole)
        raise UsageError(f"/set: unknown name {name!r}{meant}")
    group, field = known[name]
    if group is LengthFlags:
        _change_length(conversation, field, text)
    else:
        try:
            _change_sampling(conversation, field, text)
        except WrongValue as err:
            raise err.renamed(name) from None


def _change_length(conversation: Conversation, field: str, text: str) -> None:
    default = text == "default"
    if field == "stop":
        conversation.stop = () if default else (unescaped(text, "/set stop"),)
    else:
        flags = LengthFlags() if default else LengthFlags(n_predict=_typed(field, text, int))
        conversation.n_predict = convert.longest_output(flags)


def _change_sampling(conversation: Conversation, field: str, text: str) -> None:
    target = _FROM_FILE.get(field, field)
    if text == "default":
        value = getattr(convert.sampling_params(conversation.model, {}), target)
    else:
        kind = next(kind for name, _, kind in _flags(SamplingFlags) if name == field)
        given = SamplingFlags(**{field: _typed(field, text, kind)})
        value = convert.sampling_values(given)[target]
    conversation.set_sampling(replace(conversation.sampling, **{target: value}))


def _flags(group: type) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Yield field, spellings and type of each flag."""
    hints = get_type_hints(group, include_extras=True)
    for item in fields(group):
        kind, option = get_args(hints[item.name])
        yield item.name, spellings(option), _plain(kind)


def _plain(kind: Any) -> Any:
    """Return the type without None."""
    kinds = [one for one in get_args(kind) if one is not type(None)]
    return kinds[0] if kinds and type(None) in get_args(kind) else kind


def _typed(name: str, text: str, kind: Any) -> Any:
    if kind is bool:
        if text.lower() not in _ON + _OFF:
            raise UsageError(f"{spelled(name)} is {text!r}: give on or off")
        return text.lower() in _ON
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise UsageError(f"{spelled(name)} is {text!r}: give {what}") from None
    return text.split() if kind == list[str] else text
