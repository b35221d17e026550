from __future__ import annotations

import json
import re
from typing import Any

import pytest

from scope_cpp.engine.model import Model
from scope_cpp.engine.schema.matcher import CompiledSchema
from scope_cpp.errors import UsageError

from .conftest import Allows

HALF = "\ud83d"


def refused(model: Model, schema: Any) -> str:
    source = schema if isinstance(schema, str) else json.dumps(schema)
    with pytest.raises(UsageError) as err:
        CompiledSchema(model, source)
    (line,) = str(err.value).splitlines()
    assert line.startswith("bad JSON schema: ")
    return line.removeprefix("bad JSON schema: ")


def below(keyword: str, value: Any) -> dict[str, Any]:
    """A schema with this keyword some levels down."""
    return {"type": "object", "properties": {"a/b": {"items": {keyword: value}}}}


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("not", {"type": "null"}),
        ("if", {}),
        ("then", {}),
        ("else", {}),
        ("contains", {}),
        ("minContains", 1),
        ("propertyNames", {"pattern": "a"}),
        ("dependencies", {"a": ["b"]}),
        ("dependentRequired", {"a": ["b"]}),
        ("dependentSchemas", {"a": {}}),
        ("unevaluatedItems", False),
        ("unevaluatedProperties", False),
        ("uniqueItems", True),
        ("$dynamicRef", "#a"),
        ("$recursiveRef", "#"),
        ("contentEncoding", "base64"),
        ("divisibleBy", 3),
        ("format", "idn-email"),
        ("format", "regex"),
        ("format", {"a": 1}),
        ("format", ["date"]),
    ],
)
def test_what_cannot_be_enforced_is_named_with_its_place(
    model: Model, keyword: str, value: Any
) -> None:
    line = refused(model, below(keyword, value))
    assert line.startswith(f"#/properties/a~1b/items/{keyword}: ")
    assert "cannot be enforced" in line


@pytest.mark.parametrize(
    ("keyword", "meant"),
    [
        ("maxlength", "maxLength"),
        ("min_items", "minItems"),
        ("additional_properties", "additionalP"),
    ],
)
def test_a_misspelt_keyword_is_named(model: Model, keyword: str, meant: str) -> None:
    assert f"{meant}" in refused(model, below(keyword, 3))


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        ('{"const": NaN}', "JSON has no NaN"),
        ("[1]", "#: a schema is an object"),
        ("3", "#: a schema is an object"),
        ("false", "#: "),
        ({"type": "what"}, '#/type: "what" is no type'),
        ({"type": []}, "#/type: give a type"),
        ({"type": {"a": 1}}, "#/type: give a type"),
        ({"enum": []}, "#/enum: give a list"),
        ({"enum": "a"}, "#/enum: give a list"),
        ({"const": HALF}, "#/const: half a surrogate"),
        ({"enum": ["a", [HALF]]}, "#/enum/1/0: half a surrogate"),
        ({"minimum": "3"}, "#/minimum: give a number"),
        ({"minimum": 2**60}, "#/minimum: numbers beyond"),
        ('{"maximum": 1e999}', "#/maximum: numbers beyond"),
        ({"const": 2**53 + 1}, "#/const: numbers beyond"),
        ({"multipleOf": 0}, "#/multipleOf: give a number more than 0"),
        ({"multipleOf": 100_003}, "remainders"),
        ({"allOf": [{"multipleOf": 97}, {"multipleOf": 101}, {"multipleOf": 103}]}, "remainders"),
        ({"minLength": -1}, "#/minLength: give a whole number"),
        ({"minLength": 2**32}, "#/minLength: at most 4294967295"),
        ({"maxItems": 1.5}, "#/maxItems: give a whole number"),
        (
            {"properties": {"a": {"pattern": "\\p{Foo}"}}},
            "#/properties/a: Unicode property not found",
        ),
        ({"minimum": 1e-320}, "#: exceed the maximum number of nested"),
        ({"pattern": 3}, "#/pattern: a pattern is a text"),
        ({"pattern": "("}, "#/pattern: bad pattern: "),
        ({"pattern": "\\bx"}, "#/pattern: bad pattern: \\b cannot"),
        ({"patternProperties": {"(?=a)": {}}}, "#/patternProperties/(?=a): bad pattern"),
        ({"items": 3}, "#/items: a schema is"),
        ({"prefixItems": {}}, "#/prefixItems: give a list"),
        ({"properties": []}, "#/properties: give an object"),
        ({"properties": {"a": None}}, "#/properties/a: a schema is"),
        ({"required": "a"}, "#/required: give a list of names"),
        ({"required": True}, "#/required: draft 3"),
        ({"anyOf": []}, "#/anyOf: give a list"),
        ({"allOf": {"a": 1}}, "#/allOf: give a list"),
        ({"$ref": 3}, "#/$ref: a reference must be a text"),
        ({"$ref": "#/nowhere"}, "#/$ref: it refers to what is not there"),
        ({"$ref": "#/anyOf/7", "anyOf": [{}]}, "#/$ref: it refers to what is not there"),
        ({"$ref": "#nowhere"}, "#/$ref: it refers to an anchor"),
        ({"$ref": "https://example.com/a.json"}, "#/$ref: only references within"),
        ({"$ref": "other.json#/a"}, "#/$ref: only references within"),
        (
            {"$defs": {"a": {"$id": "http://x/y", "items": {"$ref": "#/b"}}}, "$ref": "#/$defs/a"},
            "#/$defs/a/items/$ref: references below a nested $id",
        ),
        ({"minProperties": 2, "type": "object"}, "#/minProperties: more than one property"),
        ({"properties": {"a\n": {"not": {}}}}, "#/properties/a\\n/not: "),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(model: Model, schema: Any, said: str) -> None:
    assert said in refused(model, schema)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$ref": "#"}, "#: it leads to itself"),
        (
            {
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
                "$ref": "#/$defs/a",
            },
            "#/$defs/a: it leads to itself",
        ),
        ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, "#: it leads to itself"),
        ({"oneOf": [{"type": "null"}, {"$ref": "#"}]}, "#/oneOf: one value could satisfy"),
        (
            {"properties": {"n": {"$ref": "#"}}, "required": ["n"], "type": "object"},
            "comes to an end",
        ),
        ({"type": "array", "minItems": 1, "items": {"$ref": "#"}}, "comes to an end"),
        ({"type": "array", "prefixItems": [{"$ref": "#"}], "minItems": 1}, "comes to an end"),
        ({"required": ["a"], "additionalProperties": False, "type": "object"}, "comes to an end"),
    ],
)
def test_what_no_finite_value_satisfies(model: Model, schema: Any, said: str) -> None:
    assert said in refused(model, schema)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (below("oneOf", [{"type": "string"}, {"minLength": 2}]), "#/properties/a~1b/items/oneOf"),
        ({"items": {"patternProperties": {"a*": {}, "b*": {}}}}, "#/items"),
        (
            {
                "properties": {"n": {"type": "number", "minimum": 3, "maximum": 2}},
                "required": ["n"],
                "type": "object",
            },
            "#",
        ),
        (
            {
                "type": "object",
                "properties": {"s": {"type": "string", "pattern": "^a$", "minLength": 2}},
                "required": ["s"],
            },
            "#",
        ),
    ],
)
def test_what_the_engine_refuses_has_a_place_too(model: Model, schema: Any, place: str) -> None:
    assert refused(model, schema).startswith(f"{place}: ")


def many(n: int, **node: Any) -> dict[str, Any]:
    return {f"p{i}": node for i in range(n)}


def nested(n: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(n):
        schema = {"type": "array", "items": schema}
    return schema


def chained(n: int) -> dict[str, Any]:
    links = {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(n)}
    return {"$defs": {**links, f"d{n}": {}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"enum": ["x" * (1 << 21)]}, "characters"),
        ({"enum": [f"value {i}" for i in range(30_000)]}, "more than 20000 values"),
        ({"type": "object", "properties": many(3000, type="string")}, "at most 700"),
        ({"type": "object", "required": [f"r{i}" for i in range(10_000)]}, "too large"),
        ({"anyOf": [{"minItems": i} for i in range(300)]}, "more than 200 alternatives"),
        ({"type": "object", "patternProperties": many(300, type="string")}, "at most 50 patterns"),
        (nested(150), "nested more than 100"),
        (chained(150), "nested more than 100"),
        ('{"items":' * 5000 + "{}" + "}" * 5000, "nested too deep"),
        (
            {
                "allOf": [
                    {"anyOf": [{"required": [f"a{i}"]}, {"required": [f"b{i}"]}]} for i in range(20)
                ],
                "type": "object",
            },
            "schema too large",
        ),
        (
            {"allOf": [{"pattern": letter} for letter in "abcdefghijkl"], "type": "string"},
            "Unable to determine",
        ),
    ],
)
def test_what_is_too_large_is_refused(model: Model, schema: Any, said: str) -> None:
    assert said in refused(model, schema)


def test_deep_schemas_within_the_limit_are_read(allows: Allows) -> None:
    assert allows(nested(90), "[" * 90 + "null" + "]" * 90)
    assert not allows(nested(90), "[" * 90 + "1" + "]" * 90)
    assert allows(chained(45), "[" * 50 + "]" * 50)


def test_keywords_of_others_say_nothing(allows: Allows) -> None:
    others = {"example": 1, "x-order": 2, "_uniqueItems": True, "discriminator": {}, "nullable": 0}
    assert allows({"type": "array", **others}, "[1,1]")
    assert not allows({"type": "array", **others}, "null")


def test_subschemas_that_nothing_refers_to_are_not_read(allows: Allows) -> None:
    assert allows({"type": "null", "$defs": {"unused": {"not": {}}}}, "null")


def test_a_control_character_needs_objects_that_are_closed(model: Model) -> None:
    open_object = {"type": "object", "properties": {"a": {}}, "additionalProperties": True}
    line = refused(model, {"anyOf": [open_object, {"const": "\0"}]})
    assert re.match(r"#/anyOf/1/const: a control character .*, which #/anyOf/0 lacks", line)
