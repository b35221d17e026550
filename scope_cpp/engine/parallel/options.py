"""What a row may set for itself: names as the command's flags, OpenAI's where those differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scope_cpp.engine.sampling_params import RANGES
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import UsageError
from scope_cpp.near import did_you_mean

NO_LIMIT = -1

Values = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What a row sets; all else is the command's.

    Attributes
    ----------
    n_predict
        ``None``: the command's; `NO_LIMIT`.
    stop
        ``None``: the command's.
    parse_special
        Whether control tokens in a prompt are read as such; ``None``: the command's.
    settings, sampling
        Fields of `scope_cpp.engine.settings.Settings` and
        `scope_cpp.engine.sampling.SamplingParams`.
    """

    n_predict: int | None = None
    stop: tuple[str, ...] | None = None
    parse_special: bool | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def over(self, base: Settings) -> Settings:
        """Return settings with the row's over them.

        A row with a policy of its own takes none of the policy options below.
        """
        values = dict(self.settings)
        if "policy" in values or "prefill" in values:
            values.setdefault("options", ())
        else:
            own = values.get("options", ())
            named = {option.partition("=")[0] for option in own}
            kept = (option for option in base.options if option.partition("=")[0] not in named)
            values["options"] = (*kept, *own)
        return replace(base, **values)


@dataclass(frozen=True)
class _Key:
    """Where the value of a key goes, and what makes it of JSON."""

    group: str
    name: str
    read: Callable[[str, Any], Any]


def parse_options(values: Mapping[str, Any], others: tuple[str, ...] = ()) -> Options:
    """Return the options of a row.

    Parameters
    ----------
    values
        Decoded JSON; ``null`` stands for a key that is not given.
    others
        Keys that are valid too, for the message about an unknown one.

    Raises
    ------
    UsageError
        For a key that is unknown, of the whole run, or given under two names; a value of the wrong
        kind, or a sampling value out of its range.
    """
    found: dict[str, Values] = {"row": {}, "settings": {}, "sampling": {}}
    given: dict[tuple[str, str], str] = {}
    for name, value in values.items():
        key = _find(name, others)
        if value is None:
            continue
        other = given.setdefault((key.group, key.name), name)
        if other != name:
            raise UsageError(f"{other} and {name} are the same: leave one out")
        found[key.group][key.name] = key.read(name, value)
    row, sampling = found["row"], found["sampling"]
    schema = row.pop("response_format", None)
    if schema is not None:
        if "json_schema" in sampling:
            raise UsageError("response_format and json_schema: leave one out")
        sampling["json_schema"] = schema
    return Options(**row, settings=found["settings"], sampling=sampling)


def _find(name: str, others: tuple[str, ...]) -> _Key:
    if name in _OF_THE_RUN:
        raise UsageError(f"{name} is of the whole run: leave it out, give {_OF_THE_RUN[name]}")
    key = _KEYS.get(name)
    if key is None:
        valid = sorted((*_KEYS, *others))
        near = did_you_mean(name, valid)
        raise UsageError(f"unknown key {name!r}{near}; valid are {', '.join(valid)}")
    return key


def option_names() -> tuple[str, ...]:
    """Return the keys that `parse_options` knows."""
    return tuple(_KEYS)


def json_schema_of(value: Any) -> str | None:
    """Return the JSON schema that a ``response_format`` of OpenAI asks for, as JSON text.

    Raises
    ------
    UsageError
        If it is none.
    """
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return '{"type": "object"}'
    if kind == "json_schema":
        asked = value.get("json_schema")
        schema = asked.get("schema") if isinstance(asked, dict) else None
        if isinstance(schema, dict):
            return json.dumps(schema)
        raise UsageError("response_format of type json_schema needs json_schema: {schema: {…}}")
    raise UsageError(
        f"response_format {shown(value)} is unknown: its type is text, json_object or json_schema"
    )


# kinds of values


def _wrong(name: str, value: Any, wanted: str) -> UsageError:
    return UsageError(f"{name} is {shown(value)}: give {wanted}")


def shown(value: Any) -> str:
    """Return a value as messages show it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(name, value, "a number")
    return value


def _whole(name: str, value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, value, "a whole number")
    return value


def _sampling(field: str) -> Callable[[str, Any], Any]:
    """Return what reads a sampling value; its errors name the key as it was written."""
    allowed = RANGES[field]
    kind = _whole if allowed.kind is int else _number

    def read(name: str, value: Any) -> Any:
        number = kind(name, value)
        allowed.check(name, number)
        return number

    return read


def _length(name: str, value: Any) -> int:
    n = _whole(name, value)
    if n != NO_LIMIT and n < 1:
        raise _wrong(name, value, "at least 1, or -1 for no limit")
    return n


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a text")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(t, str) and t for t in texts):
        raise _wrong(name, value, "a text or a list of texts, none of them empty")
    return tuple(texts)


def _budget(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise _wrong(name, value, 'cells, such as 512, or a text such as "2k" or "50%"')
    return str(value)


def _policy_options(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, dict):
        value = [f"{key}={_plain(item)}" for key, item in value.items()]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(name, value, 'an object, such as {"interval": 16}')
    return tuple(item.strip() for item in value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _schema(name: str, value: Any) -> str:
    if isinstance(value, (dict, bool)):
        return json.dumps(value)
    return _text(name, value)


def _format(name: str, value: Any) -> str | None:
    return json_schema_of(value)


def _biases(name: str, value: Any) -> dict[int, float]:
    wanted = 'an object of tokens and biases, such as {"15043": -2}'
    if not isinstance(value, dict):
        raise _wrong(name, value, wanted)
    try:
        return {int(token): _number(name, bias) for token, bias in value.items()}
    except ValueError:
        raise _wrong(name, value, wanted) from None


_SAMPLING: dict[str, Callable[[str, Any], Any]] = {
    **{field: _sampling(field) for field in RANGES},
    "grammar": _text,
    "json_schema": _schema,
    "logit_bias": _biases,
    "ignore_eos": _flag,
}
_SETTINGS: dict[str, Callable[[str, Any], Any]] = {
    "policy": _text,
    "prefill": _text,
    "granularity": _text,
    "options": _policy_options,
    "budget": _budget,
    "ctx_size": _whole,
}
_LENGTH = _Key("row", "n_predict", _length)

_KEYS: dict[str, _Key] = {
    **{name: _Key("sampling", name, read) for name, read in _SAMPLING.items()},
    **{name: _Key("settings", name, read) for name, read in _SETTINGS.items()},
    "temperature": _Key("sampling", "temp", _SAMPLING["temp"]),
    "n_predict": _LENGTH,
    "max_tokens": _LENGTH,
    "max_completion_tokens": _LENGTH,
    "stop": _Key("row", "stop", _texts),
    "parse_special": _Key("row", "parse_special", _flag),
    "response_format": _Key("row", "response_format", _format),
}

# what all rows of a context share
_OF_THE_RUN = {
    "cache_type_k": "-ctk",
    "cache_type_v": "-ctv",
    "type_k": "-ctk",
    "type_v": "-ctv",
    "flash_attn": "-fa",
    "batch_size": "-b",
    "ubatch_size": "-ub",
    "threads": "-t",
    "threads_batch": "-tb",
    "chat_template": "--chat-template",
}
