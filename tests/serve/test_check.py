"""The table of fields, against an independent reading of the same JSON Schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scope_cpp.serve import limits, schema
from scope_cpp.serve.check import check
from scope_cpp.serve.errors import ApiError

CHAT, COMPLETIONS = schema.chat(100), schema.completions(100)
HELLO = [{"role": "user", "content": "Hello"}]


def passes(value: Any, rules: schema.Object) -> bool:
    try:
        check(value, rules)
    except ApiError as err:
        assert err.status == 400 and err.message and "\n" not in err.message
        return False
    return True


# names that mean something, and values that may be right or wrong for them
NAMES = st.sampled_from([*CHAT["properties"], *COMPLETIONS["properties"], "bogus", "role", "type"])
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 130),
    st.sampled_from([0.5, 1.5, -0.5, 1e30, 2**40]),
    st.sampled_from(["", "user", "text", "auto", "none", "json_object", "full", "12", "2k"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "tool"])},
        optional={"content": VALUES, "name": VALUES, "tool_calls": VALUES},
    ),
    max_size=2,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=4), st.none() | MESSAGES)
def test_the_check_agrees_with_a_validator(body: dict[str, Any], messages: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for rules, field, default in ((CHAT, "messages", HELLO), (COMPLETIONS, "prompt", "Hello")):
        asked = {field: default} | body
        if messages is not None and field == "messages":
            asked["messages"] = messages
        valid = jsonschema.Draft202012Validator(rules).is_valid(asked)
        assert passes(asked, rules) == valid


@pytest.mark.parametrize(
    ("body", "param", "phrase"),
    [
        ({}, "messages", "is missing"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "is missing"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "valid are system"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content.0.type",
            "valid are text",
        ),
        ({"messages": HELLO, "echo": True}, "echo", "unknown field"),
        ({"messages": HELLO, "tools": [{}]}, "tools", "no tools"),
        ({"messages": HELLO, "policy": "H2O"}, "policy", "(did you mean h2o?)"),
        ({"messages": HELLO, "policy": "snapkv"}, "policy", "(snapkv is one of the field prefill)"),
        ({"messages": HELLO, "prefill": "tova"}, "prefill", "(tova is one of the field policy)"),
        ({"messages": HELLO, "temperature": 9}, "temperature", "within 0 to 2"),
        ({"messages": HELLO, "n": True}, "n", "n is true: give a whole number"),
        ({"messages": HELLO, "n": "2"}, "n", "n is a text: give a whole number"),
        ({"messages": HELLO, "n": 1.5}, "n", "n is a number: give a whole number"),
        (
            {"messages": HELLO, "stop": 1},
            "stop",
            "a number: give a text or a list of texts",
        ),
        ({"messages": HELLO, "stream": 1}, "stream", "stream is a number: give true or false"),
        ({"messages": {}}, "messages", "messages is an object: give a list"),
        ({"messages": HELLO, "logit_bias": {"x": 1}}, "a key of logit_bias", "number of a token"),
        ({"messages": HELLO, "logit_bias": {"1\n": 1}}, "a key of logit_bias", "a token"),
        ({"messages": HELLO, "response_format": {"type": "x"}}, "response_format.type", "valid"),
        (
            {"messages": HELLO, "response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "is missing",
        ),
        ({"messages": HELLO, "y" * 999: 1}, "y" * 63 + "…", "unknown field"),
    ],
)
def test_errors_name_the_field_and_the_remedy(body: Any, param: str, phrase: str) -> None:
    with pytest.raises(ApiError) as refused:
        check(body, CHAT)
    assert refused.value.param == param
    assert phrase in refused.value.message


@pytest.mark.parametrize("prompt", ["x", ["x", "y"], [1, 2], [[1], [2, 3]]])
def test_the_kinds_of_prompts(prompt: Any) -> None:
    assert passes({"prompt": prompt}, COMPLETIONS)


@pytest.mark.parametrize(
    ("prompt", "param"),
    [([1, -1], "prompt.1"), (["x", 1], "prompt.1"), ([[1], []], "prompt.1"), ([], "prompt")],
)
def test_the_part_of_a_prompt_that_is_wrong(prompt: Any, param: str) -> None:
    with pytest.raises(ApiError) as refused:
        check({"prompt": prompt}, COMPLETIONS)
    assert refused.value.param == param


def test_null_is_as_good_as_left_out() -> None:
    for rules, required in ((CHAT, {"messages": HELLO}), (COMPLETIONS, {"prompt": "x"})):
        assert passes(dict.fromkeys(rules["properties"]) | required, rules)


@settings(max_examples=50, deadline=None)
@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_bodies_are_what_json_says(value: Any) -> None:
    body = {"value": value}
    assert limits.parse(json.dumps(body).encode()) == body


def test_whole_numbers_are_whole_however_they_are_written() -> None:
    parsed = limits.parse(b'{"a": 1.0, "b": 1e2, "c": 1.5, "d": 1e300}')
    assert [type(value) for value in parsed.values()] == [int, int, float, float]


@pytest.mark.parametrize("depth", [limits.DEEPEST - 2, limits.DEEPEST + 2, 100_000])
def test_how_deep_bodies_may_be(depth: int) -> None:
    body = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    if depth < limits.DEEPEST:
        limits.parse(body)
        return
    with pytest.raises(ApiError, match="nested more than 64 deep"):
        limits.parse(body)
