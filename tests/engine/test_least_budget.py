"""A budget that is too small is answered with the least one that is not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.sizes import Sizes, resolve
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.policies import decode_names, find_decode, find_prefill, prefill_names, valid_options
from tests.conftest import Tiny

DECODE = ("beta1", "beta2", "heavy", "recent", "interval", "window", "sinks", "slack")
PREFILL = ("alpha1", "alpha2", "window")


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Model:
    return Model.load(tiny())


def sizes(model: Model, settings: Settings, n_prompt: int, n_predict: int | None) -> Sizes:
    return resolve(settings, model, n_prompt, n_predict, free=2**40)


@st.composite
def asked(draw: st.DrawFn, policy: str) -> tuple[dict[str, object], int, int | None]:
    """Settings without a budget, the prompt's tokens and the longest output."""
    prefill = draw(st.sampled_from(prefill_names()))
    options = []
    for kind, cls, names in (
        ("decode", find_decode(policy), DECODE),
        ("prefill", find_prefill(prefill), PREFILL),
    ):
        for name in set(names) & set(valid_options(cls)):
            if draw(st.integers(0, 3)) == 0:
                options.append(f"{kind}.{name}={draw(st.integers(1, 90))}")
    values = {"policy": policy, "prefill": prefill, "options": tuple(sorted(options))}
    n_predict = None if policy != "full" and draw(st.booleans()) else draw(st.integers(1, 400))
    return values, draw(st.integers(1, 300)), n_predict


@pytest.mark.parametrize("policy", decode_names())
@settings(max_examples=40)
@given(data=st.data(), budget=st.integers(1, 200))
def test_the_number_that_is_named_is_the_least(
    model: Model, policy: str, data: st.DataObject, budget: int
) -> None:
    values, n_prompt, n_predict = data.draw(asked(policy))

    def accepted(n_cells: int) -> bool:
        try:
            got = sizes(model, Settings(budget=n_cells, **values), n_prompt, n_predict)
        except ScopeError:
            return False
        assert got.capacity <= n_cells
        return True

    try:
        Settings(**values)  # combinations that are refused whatever the budget
        sizes(model, Settings(budget=budget, **values), n_prompt, n_predict)
    except UsageError as err:
        named = re.search(r"give --budget (\d+) or more(?:, such as (\d+))?", str(err))
        if named is None:
            assert not any(map(accepted, (budget + 1, 500, 5000)))
            return
        least, usual = int(named[1]), named[2]
        assert least > budget and accepted(least)
        assert not accepted(least - 1)
        assert usual is None or (int(usual) > least and accepted(int(usual)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ("beta1=256", "beta2=256"),
            "scope-slide: budget 64 is below the minimum of 545 cells (prompt 33 + beta1 256 + "
            "beta2 256): give --budget 545 or more, such as 1057, or a smaller -o beta1 or "
            "-o beta2",
        ),
        (
            ("beta2=40",),
            "scope-slide: budget 64 is below the minimum of 74 cells (prompt 33 + beta2 40 + 1 "
            "between selections): give --budget 74 or more, such as 1057, or a smaller -o beta2",
        ),
        (
            ("score=window", "window=16"),
            "scope-slide: window=16 is more than the 15 recent tokens: give --budget 66 or more, "
            "such as 1057, or a smaller -o window",
        ),
    ],
)
def test_the_remedies_are_named(model: Model, options: tuple[str, ...], told: str) -> None:
    settings = Settings(policy="scope-slide", options=options, budget=64)
    with pytest.raises(UsageError) as refusal:
        sizes(model, settings, 33, 2000)
    assert str(refusal.value) == told


def test_a_budget_below_the_minimum_that_holds_the_whole_text_is_explained(model: Model) -> None:
    options = ("beta1=500", "beta2=5")
    settings = Settings(policy="scope-slide", options=options, budget=40)
    with pytest.raises(UsageError) as refusal:
        sizes(model, settings, 31, 50)
    assert str(refusal.value) == (
        "scope-slide: budget 40 is below the minimum of 536 cells (prompt 31 + beta1 500 + "
        "beta2 5): give --budget 81 or more (prompt and output fit into that, and nothing is "
        "evicted), or a smaller -o beta1 or -o beta2"
    )
