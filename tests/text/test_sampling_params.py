"""Sampling values out of range are refused at every door, in the same words."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scope_cli import convert
from scope_cli.chat import values
from scope_cli.flags import SamplingFlags

from scope_cpp.engine.parallel.options import parse_options
from scope_cpp.engine.sampling_params import BIAS, RANGES, SamplingParams
from scope_cpp.errors import UsageError
from scope_cpp.eval.asked import Asked
from scope_cpp.serve import schema
from scope_cpp.serve.check import check
from scope_cpp.serve.errors import ApiError

# As OpenAI's interface and rows of batch files call it
OTHER_NAMES = {"temp": "temperature"}


def through_chat(name: str, value: Any) -> None:
    """``/set``, with nothing but what it looks at."""
    made = SimpleNamespace(sampling=SamplingParams(), set_sampling=lambda params: None)
    values.change(made, name, str(value))  # type: ignore[arg-type]


DOORS: dict[str, Callable[[str, Any], Any]] = {
    "Python": lambda name, value: SamplingParams(**{name: value}),
    "flags": lambda name, value: convert.sampling_values(SamplingFlags(**{name: value})),
    "chat": through_chat,
    "rows": lambda name, value: parse_options({name: value}),
    "rows of OpenAI": lambda name, value: parse_options({OTHER_NAMES.get(name, name): value}),
    "a model's file": lambda name, value: RANGES[name].parse(str(value)),
}


def beyond(low: float, high: float, kind: type) -> list[Any]:
    """Values just outside, and such as have no order."""
    step = 1 if kind is int else 1e-3 * max(1.0, abs(low), abs(high))
    return [low - step, high + step, math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", RANGES)
def test_numbers(door: str, name: str) -> None:
    allowed, take = RANGES[name], DOORS[door]
    for value in (allowed.low, allowed.high):
        take(name, value)
    for value in beyond(allowed.low, allowed.high, allowed.kind):
        with pytest.raises((UsageError, ValueError)) as err:
            take(name, value)
        said = str(err.value)
        assert "\n" not in said
        if math.isfinite(value):
            assert f"give {allowed.wanted}" in said


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", ["1", True, None, [1], {}, 1 + 2j])
def test_what_is_no_number(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name} is .*: give {RANGES[name].wanted}"):
        SamplingParams(**{name: value})


@pytest.mark.parametrize("rules", [schema.chat(9), schema.completions(9)], ids=["chat", "text"])
@pytest.mark.parametrize("name", RANGES)
def test_fields_of_requests(rules: Any, name: str) -> None:
    """OpenAI's interface takes the same, or less where OpenAI says so."""
    allowed, field = RANGES[name], OTHER_NAMES.get(name, name)
    low, high = allowed.openai or (allowed.low, allowed.high)
    assert allowed.low <= low < high <= allowed.high
    rule = rules["properties"][field]
    for value in (low, high):
        check(value, rule, field)
    for value in beyond(low, high, allowed.kind)[:2]:
        with pytest.raises(ApiError, match=f"{field} is .*: give a number within"):
            check(value, rule, field)


@pytest.mark.parametrize("rules", [schema.chat(9), schema.completions(9)], ids=["chat", "text"])
def test_biases_of_requests(rules: Any) -> None:
    rule = rules["properties"]["logit_bias"]
    assert BIAS.openai is not None
    for bias in BIAS.openai:
        check({"5": bias}, rule, "logit_bias")
    with pytest.raises(ApiError, match="logit_bias.5 is 101: give a number within -100 to 100"):
        check({"5": 101}, rule, "logit_bias")


def test_numbers_of_numpy() -> None:
    """What `Generator.integers` draws is a seed; what is kept is a number of Python's own."""
    params = SamplingParams(seed=np.int64(7), temp=np.float32(0.5))  # type: ignore[arg-type]
    assert params == SamplingParams(seed=7, temp=0.5)
    assert type(params.seed) is int and type(params.temp) is float


@pytest.mark.parametrize("temp", [-3.0, math.nan])
def test_the_temperature_of_an_evaluation(temp: float) -> None:
    with pytest.raises(UsageError, match="--temp is .*: give a number within 0 to 100"):
        Asked("reference", temp=temp)
