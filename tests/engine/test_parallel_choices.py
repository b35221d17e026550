"""Tokens that take long to choose, as a schema has many ways to go on: other rows do not wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel import ParallelEngine
from scope_cpp.engine.sampling import Sampler
from scope_cpp.errors import ScopeError
from tests.conftest import Tiny
from tests.engine.rows import alone, drain, engine, n_used, request, tokens_of

SLOW = request("the rat", 12, json_schema='{"type": "string", "minLength": 12}')
QUICK = request("the", 40)


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Iterator[Model]:
    with Model.load(tiny()) as model:
        yield model


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While this event is not set, no constrained token is chosen."""
    go_on, choose = threading.Event(), Sampler.choose

    def slow(sampler: Sampler, *args: Any) -> int:
        assert go_on.wait(60)
        return choose(sampler, *args)

    monkeypatch.setattr(Sampler, "choose", slow)
    yield go_on
    go_on.set()


def until_choosing(made: ParallelEngine) -> None:
    while not any(row.choice for row in made._running):
        made.step()


def test_other_rows_go_on_and_come_in(model: Model, held: threading.Event) -> None:
    with engine(model, 3, 512) as made:
        made.submit(SLOW, "slow")
        until_choosing(made)
        made.submit(QUICK, "quick")
        said = []
        while made.n_running + made.n_waiting > 1:
            said += made.step()
        assert [event.key for event in said] == ["quick"] * 40
        held.set()
        rest = drain(made)["slow"]
    assert tokens_of(said) == tokens_of(alone(model, QUICK))
    assert tokens_of(rest) == tokens_of(alone(model, SLOW))


def test_a_quick_choice_takes_part_in_every_step(model: Model) -> None:
    with engine(model, 2, 512) as made:
        made.submit(SLOW, 0)
        made.submit(QUICK, 1)
        said = drain(made)
        assert made.n_generated == len(said[0]) + len(said[1]) == 52
    assert tokens_of(said[0]) == tokens_of(alone(model, SLOW))


def test_a_row_that_is_cancelled_is_gone_at_once(model: Model, held: threading.Event) -> None:
    with engine(model, 2, 512) as made:
        made.submit(SLOW, "slow")
        until_choosing(made)
        (row,) = made._running
        made.cancel("slow")
        assert not made.busy and n_used(made) == 0
        assert not row._sampler.closed
        held.set()
        assert row.choice is not None
        row.choice.exception(60)
        made.submit(QUICK, "quick")
        assert len(drain(made)["quick"]) == 40
    assert row._sampler.closed


def test_what_goes_wrong_is_the_rows(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(sampler: Sampler, *args: Any) -> int:
        raise ScopeError("too many ways to go on")

    monkeypatch.setattr(Sampler, "choose", choose)
    with engine(model, 2, 512) as made:
        made.submit(SLOW, "slow")
        made.submit(QUICK, "quick")
        said = drain(made)
    (event,) = said["slow"]
    assert str(event.error) == "too many ways to go on"
    assert len(said["quick"]) == 40


def test_an_engine_can_be_closed_meanwhile(model: Model, held: threading.Event) -> None:
    with engine(model, 2, 512) as made:
        made.submit(SLOW, "slow")
        until_choosing(made)
        (row,) = made._running
    assert row.choice is not None and not row.choice.done()
    held.set()
    assert row.choice.exception(60) is None
