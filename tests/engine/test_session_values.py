"""Settings and sampling parameters through JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.session_values import differences, from_json, to_json
from scope_cpp.engine.settings import DEFAULT_POLICY, Settings
from scope_cpp.engine.turns import Region
from scope_cpp.errors import UsageError


def through_json(value: Any) -> Any:
    text = json.dumps(to_json(value), allow_nan=False)
    return from_json(type(value), json.loads(text))


SAMPLING = st.builds(
    SamplingParams,
    temp=st.floats(0, 5),
    top_k=st.integers(-1, 100),
    top_p=st.floats(0, 1),
    seed=st.integers(-1, 2**32 - 1),
    grammar=st.none() | st.text(),
    logit_bias=st.dictionaries(st.integers(0, 9), st.floats(-9, 9) | st.just(-math.inf)),
    ignore_eos=st.booleans(),
)
SETTINGS = st.builds(
    Settings,
    policy=st.sampled_from([None, "h2o", "scope-foresight"]),
    prefill=st.sampled_from(["full", "snapkv"]),
    granularity=st.sampled_from(["head", "cell"]),
    options=st.sampled_from([(), ("interval=7",), ("interval=7", "decay=0.5")]),
    budget=st.sampled_from([None, 512, "2k", "50%"]),
    ctx_size=st.none() | st.integers(1, 9999),
    type_k=st.sampled_from(["f16", "q8_0"]),
)


@given(SAMPLING | SETTINGS)
def test_all_comes_back(value: Any) -> None:
    assert through_json(value) == value


def test_what_only_says_how_fast_is_left_out() -> None:
    slow = Settings(policy="h2o", n_threads=1, n_threads_batch=1, n_batch=8, offload_kqv=False)
    assert through_json(slow) == Settings(policy="h2o")


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (Settings, None),
        (Settings, []),
        (Settings, {"surprise": 1}),
        (Settings, {"policy": 5}),
        (Settings, {"prefill": None}),
        (Settings, {"options": "interval=7"}),
        (Settings, {"options": [7]}),
        (Settings, {"budget": 1.5}),
        (Settings, {"budget": True}),
        (Settings, {"n_threads": 7}),
        (Region, {}),
        (Region, {"kind": "answer", "turn": 0, "start": 1}),
        (SamplingParams, {"temp": "hot"}),
        (SamplingParams, {"temp": True}),
        (SamplingParams, {"temp": 10**400}),
        (SamplingParams, {"temp": math.inf}),
        (SamplingParams, {"temp": math.nan}),
        (SamplingParams, {"top_k": 1.0}),
        (SamplingParams, {"ignore_eos": 1}),
        (SamplingParams, {"grammar": ["root ::= x"]}),
        (SamplingParams, {"logit_bias": {"5": 1}}),
        (SamplingParams, {"logit_bias": [[5]]}),
        (SamplingParams, {"logit_bias": [[5, None]]}),
        (SamplingParams, {"logit_bias": [["5", 1]]}),
    ],
)
def test_a_wrong_type_is_named(cls: Any, values: Any) -> None:
    with pytest.raises(ValueError, match="its "):
        from_json(cls, values)


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (Settings, {"policy": "best"}),
        (Settings, {"options": ["beta9=1"]}),
        (Settings, {"granularity": "row"}),
        (SamplingParams, {"top_p": 7}),
        (SamplingParams, {"logit_bias": [[-5, 1]]}),
        (SamplingParams, {"seed": -7}),
    ],
)
def test_a_value_out_of_range_is_refused_as_if_a_user_gave_it(cls: Any, values: Any) -> None:
    with pytest.raises(UsageError):
        from_json(cls, values)


def test_the_same_said_differently_is_no_difference() -> None:
    plain = Settings(policy=DEFAULT_POLICY, options=("interval=auto",))
    assert not list(differences(Settings(), plain))
    turned = [Settings(policy="h2o", options=both) for both in (("interval=7", "decay=0.5"),) * 2]
    turned[1] = Settings(policy="h2o", options=("decay=0.50", "interval=7"), n_threads=3)
    assert not list(differences(*turned))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"policy": "h2o"}, ("policy h2o", DEFAULT_POLICY, "--policy h2o")),
        ({"prefill": "snapkv"}, ("prefill snapkv", "full", "--prefill snapkv")),
        ({"options": ("heavy=9",)}, (f"heavy=9 of {DEFAULT_POLICY}", "auto", "-o heavy=9")),
        ({"granularity": "cell"}, ("granularity cell", "head", "--granularity cell")),
        ({"type_k": "q8_0"}, ("type_k q8_0", "f16", "-ctk q8_0")),
        ({"type_v": "f32"}, ("type_v f32", "f16", "-ctv f32")),
        ({"flash_attn": "off"}, ("flash_attn off", "auto", "-fa off")),
    ],
)
def test_a_difference_is_named(fields: dict[str, Any], named: tuple[str, str, str]) -> None:
    assert list(differences(Settings(**fields), Settings())) == [named]
