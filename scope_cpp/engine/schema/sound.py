"""Refuses schemas, as `read` leaves them, that no finite text satisfies or that cost too much."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from scope_cpp.engine.schema.errors import refusal
from scope_cpp.engine.schema.read import Document, Node

MOST_MULTIPLE = 10_000  # states of the engine for one number; it computes with 32 bits

_IN_PLACE = ("allOf", "anyOf", "oneOf")
_SCALARS = ("null", "boolean", "integer", "number", "string")


def require(document: Document) -> None:
    """Refuse a document that cannot be enforced as a whole.

    Raises
    ------
    UsageError
    """
    named, places = document.definitions, document.places
    for name in named:
        _require_progress(name, named, places)
    for name, node in named.items():
        for multiples in _multiples(node, named):
            _require_few_states(multiples, places[name])
    if "0" not in _finite(named):
        raise refusal("#", "no value satisfies it that comes to an end")


def _name(node: Node) -> str:
    return str(node["$ref"]).rpartition("/")[2]


def _in_place(node: Any) -> Iterator[Any]:
    """Yield the schemas that speak of the same value, references included as they are."""
    if isinstance(node, dict):
        for key in _IN_PLACE:
            yield from node.get(key, ())


def _references_in_place(node: Any) -> Iterator[str]:
    if isinstance(node, dict) and "$ref" in node:
        yield _name(node)
    for part in _in_place(node):
        yield from _references_in_place(part)


def _require_progress(name: str, named: Node, places: dict[str, str]) -> None:
    """Refuse a schema that leads to itself without a step into a value."""
    seen, waiting = set[str](), [name]
    while waiting:
        for follower in _references_in_place(named[waiting.pop()]):
            if follower == name:
                raise refusal(places[name], "it leads to itself without a step into the value")
            if follower not in seen:
                seen.add(follower)
                waiting.append(follower)


def _multiples(node: Any, named: Node) -> Iterator[set[Decimal]]:
    """Yield what each value below a schema must be a multiple of, all branches together."""
    if not isinstance(node, dict):
        return
    yield _multiples_in_place(node, named, set())
    for value in _below(node):
        yield from _multiples(value, named)


def _multiples_in_place(node: Any, named: Node, seen: set[str]) -> set[Decimal]:
    if not isinstance(node, dict):
        return set()
    found = {Decimal(str(node["multipleOf"]))} if "multipleOf" in node else set()
    for part in _in_place(node):
        found |= _multiples_in_place(part, named, seen)
    if "$ref" in node and _name(node) not in seen:
        seen.add(_name(node))
        found |= _multiples_in_place(named[_name(node)], named, seen)
    return found


def _require_few_states(multiples: set[Decimal], place: str) -> None:
    """Bound the product: the engine takes the common multiple of all, in decimals, in 32 bits."""
    places = max((-int(number.as_tuple().exponent) for number in multiples), default=0)
    states = scale = 10 ** max(places, 0)
    for number in multiples:
        states *= int(number * scale)
    if states > MOST_MULTIPLE:
        raise refusal(
            place, f"multipleOf with more than {MOST_MULTIPLE} remainders cannot be enforced"
        )


def _below(node: Node) -> Iterator[Any]:
    """Yield the schemas of what lies in a value."""
    for key in ("properties", "patternProperties"):
        yield from node.get(key, {}).values()
    yield from node.get("prefixItems", ())
    for key in ("items", "additionalProperties"):
        if key in node:
            yield node[key]
    for part in _in_place(node):
        if isinstance(part, dict):
            yield from _below(part)


def _finite(named: Node) -> set[str]:
    """Names of schemas that some finite value may satisfy, as far as their structure tells."""
    known = set[str]()
    while True:
        found = {name for name in named if name in known or _can_end(named[name], known)}
        if found == known:
            return known
        known = found


def _can_end(node: Any, known: set[str]) -> bool:
    """Whether a value may be finite, if those of the schemas `known` may."""
    if not isinstance(node, dict):
        return bool(node)
    if "$ref" in node and _name(node) not in known:
        return False
    for key in ("anyOf", "oneOf"):
        if key in node and not any(_can_end(part, known) for part in node[key]):
            return False
    if not all(_can_end(part, known) for part in node.get("allOf", ())):
        return False
    if "enum" in node or "const" in node:
        return True
    types = node.get("type", _SCALARS)
    return any(
        kind in _SCALARS
        or (kind == "object" and _object_can_end(node, known))
        or (kind == "array" and _array_can_end(node, known))
        for kind in types
    )


def _object_can_end(node: Node, known: set[str]) -> bool:
    properties, others = node.get("properties", {}), node.get("additionalProperties", True)
    return all(_can_end(properties.get(name, others), known) for name in node.get("required", ()))


def _array_can_end(node: Node, known: set[str]) -> bool:
    first, rest = node.get("prefixItems", []), node.get("items", True)
    n = node.get("minItems", 0)
    return all(_can_end(item, known) for item in first[:n]) and (
        n <= len(first) or _can_end(rest, known)
    )
