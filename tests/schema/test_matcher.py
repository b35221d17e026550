from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from scope_cpp.engine.model import Model
from scope_cpp.engine.schema import matcher
from scope_cpp.engine.schema.matcher import CompiledSchema, Vocabulary
from scope_cpp.errors import ScopeError, UsageError
from tests.schema.conftest import Allows

LINKED = {
    "$defs": {
        "N": {
            "type": "object",
            "properties": {
                "v": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]},
            },
            "required": ["v", "next"],
        }
    },
    "$ref": "#/$defs/N",
}
TWO = {
    "type": "object",
    "properties": {
        "a": {"anyOf": [{"enum": ["x"]}, {"type": "null"}]},
        "b": {"$ref": "#/properties/a/anyOf/0"},
    },
    "required": ["a", "b"],
}
SHAPES = {
    "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
    "$defs": {
        "Cat": {
            "type": "object",
            "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}},
            "required": ["kind", "lives"],
        },
        "Dog": {
            "type": "object",
            "properties": {"kind": {"const": "dog"}, "name": {"type": "string"}},
            "required": ["kind", "name"],
        },
    },
}
OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "null"}}}

# schema, texts that it allows, texts that it does not
CASES: list[tuple[Any, list[str], list[str]]] = [
    ({}, ["1", '{"a":[null]}', '"x"'], ["", "x"]),
    (True, ["1", "[]"], [""]),
    ({"title": "only"}, ["1", "{}"], [""]),
    (
        {"type": "string"},
        ['"a"', '"\\n\\"\\\\"', '"é😀"'],
        ['"a\nb"', '"a\tb"', '"\x01"', "'a'", '"'],
    ),
    # cases that failed with the converter before
    ({"enum": ["C:\\temp\\new"]}, ['"C:\\\\temp\\\\new"'], ['"C:\\temp\\new"']),
    ({"enum": ["😀 ok"]}, ['"😀 ok"'], ['"x"']),
    ({"enum": ["a\nb"]}, ['"a\\nb"'], ['"a\nb"']),
    ({"enum": ['5" disk']}, ['"5\\" disk"'], ['"5" disk"']),
    ({"const": "\0\x1f\x7f"}, ['"\\u0000\\u001f\\u007f"'], ['""']),
    (
        {"type": "object", "properties": {'a"b': {"type": "integer"}}, "required": ['a"b']},
        ['{"a\\"b":1}'],
        ['{"a"b":1}', "{}"],
    ),
    (
        {"type": "object", "properties": {"a\0": {}}, "required": ["a\0"]},
        ['{"a\\u0000":1}'],
        ["{}"],
    ),
    (
        {"type": "array", "items": {"type": "integer"}, "maxItems": 300},
        ["[" + "1," * 299 + "1]"],
        ["[" + "1," * 300 + "1]"],
    ),
    ({"type": "string", "maxLength": 300}, ['"' + "é" * 300 + '"'], ['"' + "x" * 301 + '"']),
    ({"type": "string", "maxLength": 1e10}, ['"ab"'], ["1"]),
    ({"type": "string", "minLength": 2, "maxLength": 2}, ['"😀\\n"'], ['"a"', '"abc"', '"😀"']),
    (LINKED, ['{"v":1,"next":{"v":2,"next":null}}'], ['{"v":1}', '{"v":1,"next":3}']),
    (TWO, ['{"a":null,"b":"x"}'], ['{"a":null,"b":null}']),
    # constraints that vanished
    ({"type": ["integer", "null"]}, ["3", "null"], ['"3"', "true"]),
    ({"type": "object", "required": ["a"]}, ['{"a":1}', '{"a":1,"b":2}'], ["{}", '{"b":1}']),
    (
        {
            "properties": {"x": {"$ref": "#/$defs/a/v"}, "y": {"$ref": "#/$defs/b/v"}},
            "type": "object",
            "required": ["x", "y"],
            "$defs": {"a": {"v": {"const": 1}}, "b": {"v": {"const": 2}}},
        },
        ['{"x":1,"y":2}'],
        ['{"x":1,"y":1}', '{"x":2,"y":2}'],
    ),
    ({"allOf": [{"minimum": 3}, {"maximum": 5}], "type": "integer"}, ["3", "5"], ["2", "6"]),
    (
        {
            "allOf": [
                {"properties": {"a": {"const": 1}}, "required": ["a"]},
                {"properties": {"b": {"const": 2}}, "required": ["b"]},
            ],
            "type": "object",
        },
        ['{"a":1,"b":2}'],
        ['{"a":1}', '{"b":2}', '{"a":1,"b":3}'],
    ),
    ({"type": "integer", "minimum": -3, "maximum": 12}, ["-3", "0", "12"], ["-4", "13", "1.5"]),
    (
        {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
        ["0.5", "0.1"],
        ["0", "0.0", "0.51"],
    ),
    ({"type": "number", "exclusiveMaximum": 0, "minimum": -0.5}, ["-0.5"], ["0", "-0", "-0.0"]),
    ({"type": "number", "minimum": 3, "exclusiveMinimum": True}, ["3.1", "4"], ["3", "3.0"]),
    ({"type": "integer", "exclusiveMinimum": 3}, ["4"], ["3"]),
    ({"type": "integer", "multipleOf": 7}, ["0", "14", "-7"], ["1", "15"]),
    ({"type": "number", "multipleOf": 0.25}, ["0.75", "3"], ["0.3"]),
    (
        {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"}},
        ["[]", "[1]", '[1,"a"]'],
        ['["a"]', "[1,2]"],
    ),
    (
        {"type": "array", "items": [{"type": "integer"}], "additionalItems": False},
        ["[1]", "[]"],
        ["[1,2]", '["a"]'],
    ),
    ({"type": "array", "uniqueItems": True, "maxItems": 1}, ["[1]"], ["[1,1]"]),
    ({"type": "array", "minItems": 2}, ["[1,1]"], ["[1]", "[]"]),
    # references
    ({"$ref": "#/$defs/a~1b/0/~0c%25", "$defs": {"a/b": [{"~c%": {"const": 1}}]}}, ["1"], ["2"]),
    ({"$ref": "#name", "$defs": {"x": {"$anchor": "name", "const": 1}}}, ["1"], ["2"]),
    (
        {"$id": "http://x/y", "$ref": "http://x/y#/$defs/x", "$defs": {"x": {"const": 1}}},
        ["1"],
        ["2"],
    ),
    ({"type": "object", "properties": {"n": {"$ref": "#"}}}, ['{"n":{"n":{}}}'], ['{"n":1}']),
    (
        {"definitions": {"p": {"minimum": 2}}, "type": "integer", "$ref": "#/definitions/p"},
        ["2"],
        ["1"],
    ),
    # objects
    (OBJECT, ["{}", '{"a":1}', '{"b":null}', '{"a":1,"b":null}'], ['{"c":1}', '{"a":null}']),
    (
        {**OBJECT, "additionalProperties": {"const": 0}},
        ['{"a":1,"c":0}'],
        ['{"c":1}', '{"\\u0061":0}'],
    ),
    ({**OBJECT, "minProperties": 1}, ['{"a":1}'], ["{}"]),
    (
        {"type": "object", "additionalProperties": {"type": "null"}, "maxProperties": 1},
        ["{}", '{"x":null}'],
        ['{"x":1}', '{"x":null,"y":null}'],
    ),
    (
        {
            "type": "object",
            "patternProperties": {"^x_": {"type": "null"}},
            "additionalProperties": False,
        },
        ['{"x_1":null}', "{}"],
        ['{"x_1":1}', '{"y":null}'],
    ),
    (
        SHAPES,
        ['{"kind":"cat","lives":9}', '{"kind":"dog","name":"Rex"}'],
        ['{"kind":"cat","name":"Rex"}', '{"kind":"cow"}'],
    ),
    ({"oneOf": [{"const": 1}, {"const": 2}]}, ["1", "2"], ["3"]),
    ({"oneOf": [{"type": "integer"}, {"type": "string"}], "anyOf": [{"minimum": 3}]}, ["3"], ["2"]),
    # formats
    ({"format": "date"}, ['"2024-02-29"', "3"], ['"2023-02-29"', '"2023-13-01"']),
    ({"type": "string", "format": "date-time"}, ['"2024-02-29T23:59:59Z"'], ['"2024-02-29"']),
    ({"type": "string", "format": "time"}, ['"09:30:00.5+02:00"'], ['"24:00:00Z"', '"09:30"']),
    ({"type": "string", "format": "duration"}, ['"P1DT2H"', '"P3W"'], ['"P"', '"PT"']),
    ({"type": "string", "format": "email"}, ['"a.b@c-d.org"'], ['"a"', '"a..b@c"', '"a@-c"']),
    ({"type": "string", "format": "hostname"}, ['"a-1.b"'], ['"-a"', '"a."', '"' + "a" * 64 + '"']),
    ({"type": "string", "format": "ipv4"}, ['"127.0.0.1"'], ['"256.0.0.1"', '"01.2.3.4"']),
    (
        {"type": "string", "format": "ipv6"},
        ['"::1"', '"2001:db8::ff00:42:8329"'],
        ['"1::2::3"', '":1"'],
    ),
    ({"type": "string", "format": "uuid"}, ['"2eb8aa08-aa98-11ea-b4aa-73b441d16380"'], ['"2eb8"']),
    (
        {"type": "string", "format": "uri"},
        ['"https://a.b/c?d=e#f"', '"urn:x:y"'],
        ['"//a"', '"a b:c"'],
    ),
    (
        {"type": "string", "format": "date", "pattern": "^2", "maxLength": 10},
        ['"2024-01-31"'],
        ['"1999-01-01"'],
    ),
    ({"type": "integer", "format": "int32"}, ["2147483647"], ["2147483648"]),
    ({"type": "string", "format": "password"}, ['"x"'], ["1"]),
    # numbers
    ({"const": 5.0}, ["5"], ["6"]),
    ({"const": 0.1}, ["0.1"], ["0.2"]),
    ({"const": -0.0}, ["0"], ["1"]),
    ({"const": {"a": [1, {"b": None}]}}, ['{"a":[1,{"b":null}]}'], ['{"a":[1,{"b":0}]}', "{}"]),
]


@pytest.mark.parametrize(("schema", "right", "wrong"), CASES)
def test_what_a_schema_allows(
    allows: Allows, schema: Any, right: list[str], wrong: list[str]
) -> None:
    assert [text for text in right if not allows(schema, text)] == []
    assert [text for text in wrong if allows(schema, text)] == []


def test_white_space_is_a_space_or_a_line(allows: Allows) -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    assert allows(schema, "[1, 2]") and allows(schema, "[\n    1,\n    2\n]")
    assert allows(schema, "[\n\t1\n]")
    assert not allows(schema, "[  1]") and not allows(schema, "[\n\n1]")
    assert not allows(schema, " [1]") and not allows(schema, "[1] ")


def test_only_tokens_with_text_and_ends_are_allowed(model: Model) -> None:
    allowed = CompiledSchema(model, '{"type": "string"}').begin().allowed()
    assert {model.pieces[token] for token in np.flatnonzero(allowed)} == {b'"'}
    constraint = CompiledSchema(model, '{"type": "integer"}').begin()
    constraint.accept(next(t for t, piece in enumerate(model.pieces) if piece == b"7"))
    ended = {int(token) for token in np.flatnonzero(constraint.allowed())}
    assert model.eog_tokens < ended
    assert {model.pieces[t] for t in ended - model.eog_tokens} == {b"%d" % i for i in range(10)}


def test_tokens_of_the_same_text_are_all_allowed(model: Model) -> None:
    allowed = CompiledSchema(model, '{"const": "a"}').begin().allowed()
    same = [token for token, piece in enumerate(model.pieces) if piece == b'"']
    assert len(same) == 2 and allowed[same].all()


def test_what_is_allowed_is_what_can_be_accepted(model: Model) -> None:
    compiled = CompiledSchema(model, json.dumps(LINKED))
    constraint, written = compiled.begin(), list[int]()
    for text in (b"{", b'"', b"v"):
        allowed = constraint.allowed()
        for token in np.flatnonzero(~constraint._ends):
            again = compiled.begin()
            for before in written:
                again.accept(before)
            with nullcontext() if allowed[token] else pytest.raises(UsageError):
                again.accept(int(token))
        written.append(
            next(t for t in map(int, np.flatnonzero(allowed)) if model.pieces[t] == text)
        )
        constraint.accept(written[-1])


def test_a_costly_token_is_accepted_without_pythons_lock(
    model: Model, byte_tokens: dict[int, int]
) -> None:
    alike = {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/a"}}] * 80}
    constraint = CompiledSchema(model, json.dumps({"$defs": {"a": alike}, **alike})).begin()
    n, going = 0, True

    def count() -> None:
        nonlocal n
        while going:
            n += 1
            time.sleep(0.0001)

    for byte in b"[[":
        constraint.accept(byte_tokens[byte])
    held = sys.getswitchinterval()
    sys.setswitchinterval(100)  # nobody gets the lock who is not given it
    thread = threading.Thread(target=count)
    try:
        thread.start()
        before = n
        constraint.accept(byte_tokens[ord("]")])
        assert n > before
    finally:
        going = False
        sys.setswitchinterval(held)
        thread.join()


def test_outputs_of_one_schema_are_independent_and_begin_anew(model: Model) -> None:
    compiled = CompiledSchema(model, '{"const": 12}')
    first, second = compiled.begin(), compiled.begin()
    before = first.allowed()
    first.accept(int(np.flatnonzero(before)[0]))
    assert (second.allowed() == before).all() and not (first.allowed() == before).all()
    first.reset()
    assert (first.allowed() == before).all()


def test_the_vocabulary_is_made_once_for_a_model(model: Model) -> None:
    assert Vocabulary.of(model) is Vocabulary.of(model)


def test_a_model_without_an_end_is_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "has_eog", False)
    with pytest.raises(UsageError, match="end token"):
        CompiledSchema(model, "{}")


def test_what_becomes_too_much_work_is_an_error(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matcher, "_MOST_ITEMS", 30)
    names = {f"p{i}": {"type": "null"} for i in range(20)}
    schema = {"type": "object", "properties": names}
    constraint = CompiledSchema(model, json.dumps(schema)).begin()
    brace = next(token for token, piece in enumerate(model.pieces) if piece == b"{")
    with pytest.raises(ScopeError, match="too many ways to go on here .*items"):
        constraint.accept(brace)
