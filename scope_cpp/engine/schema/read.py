"""Reads a JSON schema: each keyword is put into words that the engine keeps to, or refused.

The engine's own reading of JSON Schema passes over some of what it does not know, and reads some in
another way (drafts, regular expressions, formats, large numbers). So it only ever sees what is
written here, in the words of draft 2020-12.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scope_cpp.engine.schema import formats, references, regex
from scope_cpp.engine.schema.disjoint import disjoint
from scope_cpp.engine.schema.errors import inside, refusal
from scope_cpp.engine.schema.literals import count, literal, needs_escape, number, text
from scope_cpp.errors import UsageError

Node = dict[str, Any]

MOST_WEIGHT = 1000  # subschemas; what costs more to follow counts more
MOST_CHARACTERS = 1 << 20
MOST_DEEP = 100  # subschemas within or behind one another
MOST_VALUES = 20_000  # of all enums together
MOST_BRANCHES = 200  # of all anyOf and oneOf together
MOST_NAMES = 700  # of one object
MOST_PATTERNS = 50  # patternProperties of one object
_OBJECT_WEIGHT = 3
_PATTERN_WEIGHT = 1 / 50  # a character
_INLINE = 24  # levels after which a subschema gets a name, so that the result is not nested deep

# what else may speak of an object's properties, beside `properties`
_OF_OBJECTS = {
    *("properties", "patternProperties", "additionalProperties", "required"),
    *("minProperties", "maxProperties", "anyOf", "oneOf", "allOf", "$ref"),
}
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
# keywords that say something about a schema, and nothing about values
_REMARKS = {
    *("$schema", "$vocabulary", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"),
    *("$defs", "definitions", "$comment", "title", "description", "default", "examples"),
    *("deprecated", "readOnly", "writeOnly"),
}
# keywords of any draft that cannot be enforced
_REFUSED = {
    *("not", "if", "then", "else", "contains", "minContains", "maxContains", "propertyNames"),
    *("dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems"),
    *("unevaluatedProperties", "$dynamicRef", "$recursiveRef", "contentEncoding"),
    *("contentMediaType", "contentSchema", "divisibleBy", "disallow", "extends"),
}


@dataclass(frozen=True)
class Document:
    r"""A schema as the engine gets it.

    Attributes
    ----------
    definitions
        Schemas by name, which refer to each other as ``#/$defs/NAME``; "0" is the whole.
    places
        Where each of them stood.
    escapes
        Whether control characters may be written as ``\u`` escapes.
    """

    definitions: Node
    places: dict[str, str]
    escapes: bool


def read(schema: str, apart: bool = False) -> Document:
    """Return a JSON schema, given as JSON text, in the engine's words.

    Parameters
    ----------
    schema
    apart
        Give each subschema a name.

    Raises
    ------
    UsageError
        If it is no JSON schema, or has what cannot be enforced; the message says where.
    """
    if len(schema) > MOST_CHARACTERS:
        raise refusal("#", f"it has {len(schema)} characters: at most {MOST_CHARACTERS}")
    try:
        value = json.loads(schema, parse_constant=_no_constant)
    except (ValueError, RecursionError) as err:
        cause = "it is nested too deep" if isinstance(err, RecursionError) else str(err)
        raise UsageError(f"bad JSON schema: it is not JSON: {cause}") from None
    return _Reading(value, 0 if apart else _INLINE).document


def _no_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


@dataclass
class _Reading:
    """One pass over a schema; `document` is its result."""

    value: Any
    inline: int
    document: Document = field(init=False)

    def __post_init__(self) -> None:
        self._names: dict[tuple[str, bool], str] = {}  # place, and if alone -> name in $defs
        self._found: Node = {}
        self._weight = 0.0
        self._n_values = self._n_branches = 0
        self._escaped: str | None = None  # where a text stands that needs \u
        self._open: str | None = None  # an object with properties that allows others
        self._define("#", self.value, 0, alone=True)
        if self._escaped and self._open:
            raise refusal(
                self._escaped,
                "a control character can only be enforced where every object with properties has "
                f"additionalProperties: false, which {self._open} lacks",
            )
        places = {name: place for (place, _), name in self._names.items()}
        self.document = Document(self._found, places, self._escaped is not None)

    # -- subschemas -----------------------------------------------------------------------

    def _define(self, place: str, value: Any, level: int, alone: bool) -> Node:
        """Return a reference to the schema at `place`, which is read the first time."""
        name = self._names.get((place, alone))
        if name is None:
            name = self._names[place, alone] = str(len(self._names))
            self._found[name] = None  # in the order in which they are met
            self._found[name] = self._schema(value, place, level, 0, alone)
        return {"$ref": f"#/$defs/{name}"}

    def _schema(self, value: Any, place: str, level: int, inline: int, alone: bool) -> bool | Node:
        """Return a subschema; `alone`: no other one speaks of the same value."""
        if inline > self.inline:
            return self._define(place, value, level, alone)
        if level > MOST_DEEP:
            raise refusal(place, f"it is nested more than {MOST_DEEP} levels deep")
        self._weigh(1, place)
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            raise refusal(place, "a schema is an object, true or false")
        below = _Below(self, place, level + 1, inline + 1, alone)
        out: Node = {}
        for key in value:
            self._keyword(key, value, out, below)
        if alone and _describes_all(value):
            out["additionalProperties"] = False
        return out

    def _weigh(self, weight: float, place: str) -> None:
        self._weight += weight
        if self._weight > MOST_WEIGHT:
            raise refusal(place, "the schema is too large: give fewer properties or alternatives")

    def _keyword(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """Read one keyword of the schema `value` into `out`."""
        place = inside(below.place, key)
        if key in _REFUSED:
            raise refusal(place, "this cannot be enforced: leave it out")
        if key in _READERS:
            _READERS[key](self, key, value, out, below)
        elif key not in _REMARKS:
            meant = None if key.startswith("_") else _MEANT.get(key.lower().replace("_", ""))
            if meant is not None:
                raise refusal(place, f"there is no such keyword: {meant} may be meant")

    # -- keywords -------------------------------------------------------------------------

    def type(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """``type``: a name or a list of names."""
        names = [value[key]] if isinstance(value[key], str) else value[key]
        if not isinstance(names, list) or not names:
            raise refusal(inside(below.place, key), f"give a type: {', '.join(_TYPES)}")
        for name in names:
            if name not in _TYPES:
                raise refusal(
                    inside(below.place, key),
                    f"{_shown(name)} is no type: valid are {', '.join(_TYPES)}",
                )
        out[key] = list(dict.fromkeys(names))

    def literals(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """``enum`` and ``const``."""
        place = inside(below.place, key)
        if key == "enum":
            if not isinstance(value[key], list) or not value[key]:
                raise refusal(place, "give a list of values, at least one")
            self._n_values += len(value[key])
            if self._n_values > MOST_VALUES:
                raise refusal(place, f"the schema lists more than {MOST_VALUES} values")
        self._note_escape(value[key], place)
        out[key] = literal(value[key], place)

    def bound(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """``minimum`` and the like; draft 4 has true and false for the exclusive ones."""
        given, low = value[key], key.endswith("inimum")
        plain = "minimum" if low else "maximum"
        if isinstance(given, bool) and key != plain:
            if not given or plain not in value:
                return
            given = value[plain]
        limit = number(given, inside(below.place, key))
        if key != plain and isinstance(limit, int) and value.get("type") != "integer":
            # the engine takes 0 for more than 0 where the maximum is less than 1, and so on
            key, limit = plain, limit + (1 if low else -1) * max(1e-12, abs(limit) * 1e-12)
        known = out.get(key, limit)
        out[key] = max(known, limit) if low else min(known, limit)

    def multiple(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """``multipleOf``."""
        out[key] = number(value[key], inside(below.place, key))
        if out[key] <= 0:
            raise refusal(inside(below.place, key), "give a number more than 0")

    def count(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """Numbers of items, characters and properties."""
        out[key] = count(value[key], inside(below.place, key))
        if key == "maxLength":  # no text is longer than what the engine counts to
            out[key] = min(out[key], regex.MOST_REPEATS)
        elif key == "minLength" and out[key] > regex.MOST_REPEATS:
            raise refusal(inside(below.place, key), f"at most {regex.MOST_REPEATS} can be kept to")
        required = value.get("required")
        named = len(set(map(str, required))) if isinstance(required, list) else 0
        if key == "minProperties" and out[key] > named + 1:
            raise refusal(
                inside(below.place, key),
                "more than one property that has no name in required cannot be enforced",
            )

    def pattern(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """``pattern``: found anywhere in a text, as JSON Schema has it."""
        _also(out, self._pattern(value[key], inside(below.place, key)))

    def format(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """``format``, as patterns, or as a range of numbers."""
        name, place = value[key], inside(below.place, key)
        if not isinstance(name, str):
            raise refusal(place, f"{_shown(name)} is no format and cannot be enforced")
        if name in formats.RANGES:
            low, high = formats.RANGES[name] or (-math.inf, math.inf)
            if math.isfinite(low):
                out["minimum"] = max(low, out.get("minimum", low))
                out["maximum"] = min(high, out.get("maximum", high))
        elif name not in formats.PATTERNS:
            raise refusal(place, f"the format {_shown(name)} cannot be enforced: leave it out")
        else:
            for pattern in formats.PATTERNS[name]:
                _also(out, self._pattern(f"^(?:{pattern})$", place))

    def unique(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """``uniqueItems``: true says nothing only where there is at most one item."""
        if value[key] is False or value.get("maxItems") in (0, 1):
            return
        raise refusal(inside(below.place, key), "this cannot be enforced: leave it out")

    def items(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """``items``, of which a list means ``prefixItems`` in older drafts."""
        if isinstance(value[key], list):
            out["prefixItems"] = below.schemas(value[key], key)
            if "additionalItems" in value:
                out["items"] = below.schema(value["additionalItems"], "additionalItems")
        else:
            out[key] = below.schema(value[key], key)

    def additional_items(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """``additionalItems``: see `items`, without a list it says nothing."""

    def prefix_items(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """``prefixItems``."""
        out[key] = below.schemas(value[key], key)

    def properties(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """``properties`` and ``patternProperties``."""
        place = inside(below.place, key)
        if not isinstance(value[key], dict):
            raise refusal(place, "give an object of names and schemas")
        self._note_object(value, below)
        if key == "patternProperties":
            self._open = self._open or below.place
            if len(value[key]) > MOST_PATTERNS:
                raise refusal(place, f"at most {MOST_PATTERNS} patterns can be told apart")
        if len(value[key]) > MOST_NAMES:
            raise refusal(place, f"at most {MOST_NAMES} properties can be followed")
        found = {}
        for name, schema in value[key].items():
            at = inside(place, name)
            self._note_escape(name, at)
            said = text(name, at) if key == "properties" else self._pattern(name, at)
            found[said] = below.schema(schema, key, name)
        out[key] = found

    def required(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """``required``: names, also of properties that are not described."""
        place = inside(below.place, key)
        names = value[key]
        if isinstance(names, bool):
            raise refusal(place, "draft 3 is not known: give the names beside properties")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise refusal(place, "give a list of names")
        self._weigh(len(names) // 2, place)
        self._note_object(value, below)
        self._note_escape(names, place)
        out[key] = [text(name, place) for name in dict.fromkeys(names)]

    def additional(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """``additionalProperties``."""
        out[key] = below.schema(value[key], key)

    def branches(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """``anyOf``, ``oneOf``, ``allOf``."""
        place = inside(below.place, key)
        if not isinstance(value[key], list) or not value[key]:
            raise refusal(place, "give a list of schemas, at least one")
        if key != "allOf":
            self._n_branches += len(value[key])
            if self._n_branches > MOST_BRANCHES:
                raise refusal(place, f"the schema has more than {MOST_BRANCHES} alternatives")
        alone = below.alone and not _spoken_of(value, but=key)
        if key == "allOf" and len(value[key]) > 1:
            alone = False
        found = below.schemas(value[key], key, alone)
        if key == "oneOf":
            self._require_disjoint(value[key], place)
            _all_of(out, {"anyOf": found})
        elif key == "allOf":
            _all_of(out, *found)
        else:
            out[key] = found

    def reference(self, key: str, value: Node, out: Node, below: _Below) -> None:
        """``$ref``."""
        place, target = references.find(self.value, value[key], inside(below.place, key))
        alone = below.alone and not _spoken_of(value, but=key)
        out[key] = self._define(place, target, below.level, alone)["$ref"]

    def _require_disjoint(self, branches: list[Any], place: str) -> None:
        """Refuse a ``oneOf`` of which one value could satisfy two branches."""

        def follow(reference: Any) -> Any:
            return references.find(self.value, reference, place)[1]

        for i, one in enumerate(branches):
            for j in range(i + 1, len(branches)):
                if not disjoint(one, branches[j], follow):
                    raise refusal(
                        place,
                        f"one value could satisfy branches {i} and {j}, which cannot be kept from "
                        "happening: give each a property with a const of its own, or write anyOf",
                    )

    def _pattern(self, pattern: Any, place: str) -> str:
        """Return a pattern in the engine's words."""
        if not isinstance(pattern, str):
            raise refusal(place, "a pattern is a text")
        self._weigh(len(pattern) * _PATTERN_WEIGHT, place)
        try:
            return regex.translate(pattern)
        except ValueError as err:
            raise refusal(place, f"bad pattern: {err}") from None

    # -- notes ----------------------------------------------------------------------------

    def _note_object(self, value: Node, below: _Below) -> None:
        self._weigh(_OBJECT_WEIGHT, below.place)
        closed = value.get("additionalProperties") is False
        if not closed and not (below.alone and _describes_all(value)):
            self._open = self._open or below.place

    def _note_escape(self, value: Any, place: str) -> None:
        if self._escaped is None and needs_escape(value):
            self._escaped = place


@dataclass(frozen=True)
class _Below:
    """Where the subschemas of one schema are read."""

    reading: _Reading
    place: str
    level: int
    inline: int
    alone: bool

    def schema(self, value: Any, *keys: str | int, alone: bool = True) -> bool | Node:
        """Return the subschema that stands at `keys`, in the engine's words."""
        place = inside(self.place, *keys)
        return self.reading._schema(value, place, self.level, self.inline, alone)

    def schemas(self, values: Any, key: str, alone: bool = True) -> list[bool | Node]:
        """Return each subschema of the list that stands at `key`."""
        if not isinstance(values, list):
            raise refusal(inside(self.place, key), "give a list of schemas")
        return [self.schema(value, key, i, alone=alone) for i, value in enumerate(values)]


def _spoken_of(value: Node, but: str) -> bool:
    """Whether a keyword beside `but` speaks of an object's properties."""
    return any(key in _OF_OBJECTS for key in value if key != but)


def _describes_all(value: Node) -> bool:
    """Whether an object is described by its properties, and nothing is said of others.

    Answers have no others then, as a model could add them without end.
    """
    properties, required = value.get("properties"), value.get("required", [])
    spoken = {key for key in value if key in _OF_OBJECTS}
    return (
        isinstance(properties, dict)
        and isinstance(required, list)
        and spoken <= {"properties", "required", "minProperties", "maxProperties"}
        and all(name in properties for name in required)
    )


def _also(out: Node, pattern: str) -> None:
    """Demand a pattern beside those that are demanded already."""
    if "pattern" in out:
        _all_of(out, {"pattern": pattern})
    else:
        out["pattern"] = pattern


def _all_of(out: Node, *schemas: bool | Node) -> None:
    """Demand further schemas of the same value."""
    out.setdefault("allOf", []).extend(schemas)


def _shown(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else shown[:39] + "…"


_Reader = Callable[[_Reading, str, Node, Node, _Below], None]
_READERS: dict[str, _Reader] = {
    "type": _Reading.type,
    "enum": _Reading.literals,
    "const": _Reading.literals,
    "multipleOf": _Reading.multiple,
    "pattern": _Reading.pattern,
    "format": _Reading.format,
    "uniqueItems": _Reading.unique,
    "items": _Reading.items,
    "additionalItems": _Reading.additional_items,
    "prefixItems": _Reading.prefix_items,
    "properties": _Reading.properties,
    "patternProperties": _Reading.properties,
    "additionalProperties": _Reading.additional,
    "required": _Reading.required,
    "$ref": _Reading.reference,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _Reading.bound),
    **dict.fromkeys(
        ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"),
        _Reading.count,
    ),
    **dict.fromkeys(("anyOf", "oneOf", "allOf"), _Reading.branches),
}
_MEANT = {name.lower(): name for name in (*_READERS, *_REFUSED)}
