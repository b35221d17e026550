"""What models write under schemas: every finished answer is JSON, and valid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from scope_cpp.engine.generate import generate
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling_params import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.reference.shipped import MODEL
from tests.schema.test_matcher import LINKED, SHAPES, TWO

VALIDATOR = jsonschema.Draft202012Validator
HOT: dict[str, Any] = {"temp": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
POEM = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 12},
        "lines": {"type": "array", "items": {"type": "string", "maxLength": 9}, "maxItems": 3},
        "year": {"type": "integer", "minimum": 1900, "maximum": 2030},
        "mark": {"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 5},
        "when": {"type": "string", "format": "date"},
        "code": {"type": "string", "pattern": "^[A-Z]{2}-\\d{3}$"},
    },
    "required": ["title", "lines", "year", "when"],
}
SCHEMAS: list[Any] = [
    *(LINKED, TWO, SHAPES, POEM),
    {"enum": ["C:\\temp", 'a "b"', "x\ny", "é😀", 3, None, {"k": [1, 2]}]},
    {"type": "string", "maxLength": 20},
    {"type": ["integer", "null", "boolean"], "minimum": -5},
    {"type": "array", "prefixItems": [{"const": 1}], "items": {"enum": ["a"]}, "maxItems": 4},
    {
        "type": "object",
        "patternProperties": {"^[a-c]$": {"type": "null"}},
        "maxProperties": 2,
        "additionalProperties": False,
    },
    {
        "allOf": [
            {"properties": {"a": {"minimum": 3}}, "required": ["a"]},
            {"properties": {"a": {"type": "integer", "maximum": 9}}},
        ],
        "type": "object",
        "properties": {"a": True},
        "additionalProperties": {"type": "boolean"},
        "maxProperties": 2,
    },
]


@pytest.fixture(scope="module")
def shipped() -> Iterator[Model]:
    with Model.load(MODEL) as model:
        yield model


def answer(model: Model, schema: Any, n: int, **sampling: Any) -> tuple[str, str | None]:
    """A text and its finish reason."""
    params = SamplingParams(json_schema=json.dumps(schema), **sampling)
    text, last = generate(
        model, "Facts: ab=3", n_predict=n, sampling=params, settings=Settings(n_threads=1)
    )
    return text, last.finish_reason


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_finished_answer_is_valid(model: Model, shipped: Model, schema: Any) -> None:
    finished = 0
    for writer, seed in ((model, 1), (model, 2), (model, 3), (shipped, 4), (shipped, 5)):
        text, reason = answer(writer, schema, 160, seed=seed, **HOT)
        if reason == "stop":
            finished += 1
            VALIDATOR(schema, format_checker=VALIDATOR.FORMAT_CHECKER).validate(json.loads(text))
    assert finished


def test_the_length_cuts_an_answer_and_says_so(shipped: Model) -> None:
    text, reason = answer(shipped, {"type": "string", "minLength": 50}, 10, temp=0)
    assert reason == "length" and text.startswith('"')
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_a_schema_that_agrees_changes_nothing(shipped: Model) -> None:
    schema = {"const": "Q1"}
    bias = {shipped.tokenize('"', add_special=False)[-1]: 50.0}
    text, _ = answer(shipped, schema, 9, seed=3, **HOT)
    assert json.loads(text) == "Q1"
    free, _ = generate(
        shipped,
        "Facts: ab=3",
        n_predict=1,
        sampling=SamplingParams(seed=3, logit_bias=bias, **HOT),
    )
    kept, _ = answer(shipped, {"type": "string"}, 1, seed=3, logit_bias=bias, **HOT)
    assert free == kept == '"'
