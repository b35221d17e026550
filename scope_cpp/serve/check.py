"""Checks a JSON value against the part of JSON Schema that `schema` is written in.

Three keywords are our own: ``x-refused`` says why no other value is taken (beside ``enum``),
``x-message`` what is wanted where the rule itself is hard to read (beside ``pattern``), and
``x-tag`` which field tells the branches apart (beside ``anyOf``). A ``pattern`` has both anchors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from scope_cpp.engine.turns import any_of
from scope_cpp.near import did_you_mean, nearest
from scope_cpp.serve.errors import ApiError, bad_request, one_line

Schema = Mapping[str, Any]

_MOST_NAME = 64
_INVALID_TYPE = "invalid_type"

# a whole number is an int, however it was written, see `limits.parse`
_IS: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
}

# what is said of a type, and of many
_ONE = {
    "boolean": "true or false",
    "string": "a text",
    "array": "a list",
    "object": "an object",
    "number": "a number",
    "integer": "a whole number",
}
_MANY = {
    "string": "texts",
    "array": "lists",
    "object": "objects",
    "number": "numbers",
    "integer": "whole numbers",
}


def check(value: Any, schema: Schema, param: str = "") -> None:
    """Raise `ApiError` 400 if `value` is not what `schema` says; `param` is where it is."""
    if "anyOf" in schema:
        _check_branches(value, schema, param)
        return
    if "type" in schema:
        _check_type(value, schema, param)
    if "enum" in schema and not any(_same(value, item) for item in schema["enum"]):
        raise _not_listed(value, schema, param)
    if isinstance(value, str):
        _check_text(value, schema, param)
    elif isinstance(value, list):
        _check_items(value, schema, param)
    elif isinstance(value, dict):
        _check_object(value, schema, param)
    elif _IS["number"](value):
        low, high = schema.get("minimum"), schema.get("maximum")
        if (low is not None and value < low) or (high is not None and value > high):
            raise bad_request(
                f"{param} is {_shown(value)}: give a number within {low} to {high}", param
            )


def _check_branches(value: Any, schema: Schema, param: str) -> None:
    """One branch must do; the one that fits best has the word."""
    meant = [branch for branch in schema["anyOf"] if _fits_type(value, branch)]
    if not meant:
        raise _wrong_type(value, schema["anyOf"], param)
    tag = schema.get("x-tag")
    if tag is not None and isinstance(value, dict):
        meant = [_tagged(value, tag, meant, param)]
    failures = []
    for branch in meant:
        try:
            return check(value, branch, param)
        except ApiError as err:
            failures.append(err)
    raise max(failures, key=_depth)


def _depth(err: ApiError) -> tuple[int, str, bool]:
    """How far a branch got before it failed: the farthest was meant."""
    param = err.param or ""
    return param.count("."), param, err.code != _INVALID_TYPE


def _tagged(value: dict[str, Any], tag: str, branches: list[Schema], param: str) -> Schema:
    """The branch whose ``enum`` of the field `tag` has the value's."""
    listed = {item: branch for branch in branches for item in branch["properties"][tag]["enum"]}
    where = _join(param, tag)
    if tag not in value:
        raise bad_request(f"{where} is missing", where, "missing_required_parameter")
    check(value[tag], {"type": "string", "enum": list(listed)}, where)
    return listed[value[tag]]


def _fits_type(value: Any, schema: Schema) -> bool:
    return any(_IS[kind](value) for kind in _listed(schema["type"]))


def _check_type(value: Any, schema: Schema, param: str) -> None:
    if not _fits_type(value, schema):
        raise _wrong_type(value, [schema], param)


def _check_text(text: str, schema: Schema, param: str) -> None:
    high = schema.get("maxLength")
    if schema.get("minLength") and not text:  # which is 1, where there is one
        raise bad_request(f"{param} is empty: give a text", param)
    if high is not None and len(text) > high:
        raise bad_request(f"{param} is too long: at most {high} characters", param)
    pattern = schema.get("pattern")
    if pattern is not None and not re.fullmatch(pattern, text):
        wanted = schema.get("x-message", f"it must match {pattern}")
        raise bad_request(f"{param} is {_shown(text)}: {wanted}", param)


def _check_items(items: list[Any], schema: Schema, param: str) -> None:
    low, high = schema.get("minItems", 0), schema.get("maxItems")
    if len(items) < low:
        raise bad_request(f"{param} has {len(items)} items: give at least {low}", param)
    if high is not None and len(items) > high:
        raise bad_request(f"{param} has {len(items)} items: give at most {high}", param)
    for i, item in enumerate(items):
        check(item, schema.get("items", {}), _join(param, str(i)))


def _check_object(fields: dict[str, Any], schema: Schema, param: str) -> None:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    for name in schema.get("required", ()):
        if name not in fields:
            raise bad_request(
                f"{_join(param, name)} is missing", _join(param, name), "missing_required_parameter"
            )
    if len(fields) > schema.get("maxProperties", len(fields)):
        raise bad_request(f"{param} has more than {schema['maxProperties']} entries", param)
    for name, value in fields.items():
        where = _join(param, one_line(name, _MOST_NAME))
        if "propertyNames" in schema:
            check(name, schema["propertyNames"], f"a key of {param}")
        rule = known.get(name, others)
        if rule is False:
            near = did_you_mean(name, known)
            line = f"unknown field {where}{near}: leave it out"
            raise bad_request(line, where, "unknown_parameter")
        check(value, rule, where)


def _not_listed(value: Any, schema: Schema, param: str) -> ApiError:
    if "x-refused" in schema:
        return bad_request(f"{param}: {schema['x-refused']}", param, "unsupported_parameter")
    valid = ", ".join(str(item) for item in schema["enum"] if item is not None)
    near = _meant(str(value), schema)
    return bad_request(f"{param} is {_shown(value)}{near}: valid are {valid}", param)


def _meant(name: str, schema: Schema) -> str:
    """Say which name was meant, or which other field has it."""
    near = did_you_mean(name, map(str, schema["enum"]))
    for field, names in schema.get("x-beside", {}).items():
        for other in nearest(name, names, n=1):
            near = near or f" ({other} is one of the field {field})"
    return near


def _wrong_type(value: Any, branches: Sequence[Schema], param: str) -> ApiError:
    wanted = dict.fromkeys(one for branch in branches for one in _wanted(branch))
    if value is None or isinstance(value, bool):
        found = json.dumps(value)
    else:
        found = _ONE[next(kind for kind, fits in _IS.items() if fits(value))]
    message = f"{param or 'the body'} is {found}: give {any_of(list(wanted))}"
    return bad_request(message, param or None, _INVALID_TYPE)


def _wanted(schema: Schema) -> Iterator[str]:
    """Yield in words what is of a schema's types; that null may be given needs no word."""
    for kind in _listed(schema["type"]):
        many = _MANY.get(schema.get("items", {}).get("type"))
        if kind == "array" and many:
            yield f"a list of {many}"
        elif kind != "null":
            yield _ONE[kind]


def _same(a: Any, b: Any) -> bool:
    """Equality of JSON, where true is not 1."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _listed(kinds: str | list[str]) -> list[str]:
    return [kinds] if isinstance(kinds, str) else kinds


def _join(param: str, name: str) -> str:
    return f"{param}.{name}" if param else name


def _shown(value: Any) -> str:
    return one_line(repr(value), _MOST_NAME)
