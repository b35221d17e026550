"""Whether two schemas can be told apart: else ``oneOf`` cannot be kept to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

Follow = Callable[[Any], Any]

_TYPES = frozenset(("null", "boolean", "number", "string", "array", "object"))
_MOST_DEEP = 8  # references and properties that are followed


def disjoint(one: Any, other: Any, follow: Follow, deep: int = _MOST_DEEP) -> bool:
    """Whether certainly no value satisfies both schemas.

    Parameters
    ----------
    one, other
        As they stand in the document, whose form is not checked yet.
    follow
        Returns the schema that a value of ``$ref`` names.
    deep
        How much further to look.
    """
    if one is False or other is False:
        return True
    if not isinstance(one, dict) or not isinstance(other, dict) or deep == 0:
        return False
    for a in _together(one, follow, deep):
        for b in _together(other, follow, deep):
            if _apart(a, b, follow, deep - 1):
                return True
    return _branches_apart(one, other, follow, deep) or _branches_apart(other, one, follow, deep)


def _together(schema: dict[str, Any], follow: Follow, deep: int) -> Iterator[dict[str, Any]]:
    """Yield schemas that all hold where `schema` does."""
    yield schema
    parts = list(schema["allOf"]) if isinstance(schema.get("allOf"), list) else []
    if "$ref" in schema:
        parts.append(follow(schema["$ref"]))
    for part in parts:
        if isinstance(part, dict) and deep > 0:
            yield from _together(part, follow, deep - 1)


def _branches_apart(one: dict[str, Any], other: dict[str, Any], follow: Follow, deep: int) -> bool:
    """Whether each branch of `one` is apart from `other`."""
    for part in _together(one, follow, deep):
        for key in ("anyOf", "oneOf"):
            branches = part.get(key)
            listed = branches if isinstance(branches, list) else [True]
            if all(disjoint(branch, other, follow, deep - 1) for branch in listed):
                return True
    return False


def _apart(one: dict[str, Any], other: dict[str, Any], follow: Follow, deep: int) -> bool:
    if not _types(one) & _types(other):
        return True
    values, others = _values(one), _values(other)
    if values is not None and others is not None and not values & others:
        return True
    if _types(one) & _types(other) != {"object"}:
        return False
    names = [*_required(one), *_required(other)]
    return any(
        disjoint(_property(one, name), _property(other, name), follow, deep) for name in names
    )


def _types(schema: dict[str, Any]) -> frozenset[str]:
    given = schema.get("type", _TYPES)
    names = [given] if isinstance(given, str) else given
    found = frozenset("number" if name == "integer" else name for name in names)
    values = _values(schema)
    return found if values is None else found & {kind for kind, _ in values}


def _values(schema: dict[str, Any]) -> frozenset[tuple[str, str]] | None:
    """Return the values that are listed, each as its type and a text; None where none are."""
    if "const" in schema:
        return frozenset([_identity(schema["const"])])
    if isinstance(schema.get("enum"), list):
        return frozenset(_identity(value) for value in schema["enum"])
    return None


def _identity(value: Any) -> tuple[str, str]:
    if isinstance(value, bool):
        return "boolean", json.dumps(value)
    if isinstance(value, (int, float)):
        return "number", repr(float(value)) if abs(value) < 1e300 else "large"
    if isinstance(value, str):
        return "string", value
    if value is None:
        return "null", ""
    # whole numbers may be written in two ways within these: all are taken for equal
    return ("array", "") if isinstance(value, list) else ("object", "")


def _required(schema: dict[str, Any]) -> list[Any]:
    names = schema.get("required")
    return names if isinstance(names, list) else []


def _property(schema: dict[str, Any], name: Any) -> Any:
    """Return what is said of a property, True where that is not known."""
    properties = schema.get("properties")
    if isinstance(properties, dict) and name in properties:
        return properties[name]
    return True if "patternProperties" in schema else schema.get("additionalProperties", True)
