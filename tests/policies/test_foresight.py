"""Foresight against loops in float64, from the formula alone."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.errors import UsageError
from scope_cpp.policies import View, decode_policies, make_decode
from scope_cpp.policies.scores.foresight import Asked

from .naive import Foresight

L, HEADS, KV, D_K, D_V = 2, 6, 2, 4, 3


def draw(seed: int, n: int, sharp: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values of `n` cells, read-only."""
    rng = np.random.default_rng(seed)
    keys = (sharp * rng.normal(size=(L, KV, n, D_K))).astype(np.float32)
    values = rng.normal(size=(L, KV, n, D_V)).astype(np.float32)
    keys.setflags(write=False)
    values.setflags(write=False)
    return keys, values


def ask(seed: int, n_query: int, sharp: float = 1.0) -> Asked:
    rng = np.random.default_rng(seed)
    queries = (sharp * rng.normal(size=(L, HEADS, n_query, D_K))).astype(np.float32)
    queries.setflags(write=False)
    return Asked.anew(queries, D_V)


def locked(asked: Asked) -> Asked:
    for part in vars(asked).values():
        part.setflags(write=False)
    return asked


@given(
    seed=st.integers(0, 2**32 - 9),
    n_query=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    sharp=st.sampled_from([0.1, 1.0, 2.0]),
)
def test_the_formula(seed: int, n_query: int, sizes: list[int], sharp: float) -> None:
    """Of several batches of new cells, one after the other; no input is changed."""
    asked = locked(ask(seed, n_query, sharp))
    naive = Foresight(asked.queries)
    prompt = draw(seed + 1, sizes[0])
    asked = locked(asked.with_prompt(*prompt))
    naive.read(*prompt)
    for i, n in enumerate(sizes[1:]):
        new = draw(seed + 2 + i, n)
        weights, asked = asked.weigh(*new)
        locked(asked)
        expected = naive.weigh(*new)
        assert weights.dtype == np.float32 and weights.shape == expected.shape
        assert weights == pytest.approx(expected, rel=2e-4, abs=2e-5)


@given(seed=st.integers(0, 2**32 - 2), cuts=st.sets(st.integers(1, 19)))
def test_the_prompt_in_chunks(seed: int, cuts: set[int]) -> None:
    keys, values = draw(seed, 20)
    asked = ask(seed + 1, 3, sharp=2.0)
    whole, parts = asked.with_prompt(keys, values), asked
    for chunk in np.split(np.arange(20), sorted(cuts)):
        parts = parts.with_prompt(keys[:, :, chunk], values[:, :, chunk])
    assert parts.answers == pytest.approx(whole.answers, rel=1e-4, abs=1e-5)
    assert parts.prompt == pytest.approx(whole.prompt, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("first_chunk_dead", [True, False])
def test_dead_rows_give_nothing(first_chunk_dead: bool) -> None:
    """Whatever they hold, and where a whole chunk of a layer is dead."""
    keys, values = draw(0, 12)
    asked = ask(1, 3)
    dead = np.zeros((L, 12), np.bool_)
    dead[1, 2:10:3] = True
    dead[1, slice(0, 4) if first_chunk_dead else slice(8, 12)] = True
    found = asked
    for at in (slice(0, 4), slice(4, 8), slice(8, 12)):
        found = found.with_prompt(100 * keys[:, :, at], values[:, :, at], dead[:, at])
    for layer in range(L):
        alive = ~dead[layer]
        alone = asked.with_prompt(100 * keys[:, :, alive], values[:, :, alive])
        assert found.answers[layer] == pytest.approx(alone.answers[layer], rel=1e-4, abs=1e-5)
        assert found.prompt[layer] == pytest.approx(alone.prompt[layer], rel=1e-5)


def one_head(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array([[rows]], np.float32)


def test_a_copy_of_the_prompt_weighs_nothing() -> None:
    """What the prompt has anyhow is worth its share alone; another value is worth more."""
    asked = Asked.anew(one_head((9.0, 0.0)), 2)
    asked = asked.with_prompt(one_head((1, 0), (0, 1)), one_head((3, 4), (-2, 5)))
    copy, _ = asked.weigh(one_head((1, 0)), one_head((3, 4)))
    other, _ = asked.weigh(one_head((1, 0)), one_head((-3, 4)))
    opposite, _ = asked.weigh(one_head((1, 0)), one_head((-3, -4)))
    # next to the same key in the prompt, half of the attention
    assert copy[0, 0, 0] == pytest.approx(0.5, abs=5e-3)
    assert other[0, 0, 0] == pytest.approx(0.5 + 6 / 5, rel=5e-3)
    assert opposite[0, 0, 0] == pytest.approx(0.5 + 10 / 5, rel=5e-3)


def test_the_cell_that_a_query_prefers_wins() -> None:
    """And what was weighed before, evicted since or not, competes still."""
    asked = Asked.anew(one_head((8.0, 0.0), (0.0, 8.0)), 1)
    asked = asked.with_prompt(one_head((0, 0)), one_head((1,)))
    first, asked = asked.weigh(one_head((1, 0), (-1, -1)), one_head((5,), (5,)))
    assert first[0, 0, 0] == pytest.approx(4 + 1, rel=1e-2) and first[0, 0, 1] < 0.01
    again, asked = asked.weigh(one_head((1, 0)), one_head((5,)))
    new, asked = asked.weigh(one_head((0, 1)), one_head((5,)))
    assert again[0, 0, 0] == pytest.approx(first[0, 0, 0] / 2, rel=2e-2)
    assert new[0, 0, 0] > again[0, 0, 0]
    forgot, _ = asked.before_output().weigh(one_head((1, 0)), one_head((5,)))
    assert forgot[0, 0, 0] == pytest.approx(first[0, 0, 0], rel=2e-2)


@pytest.mark.parametrize("sharp", [0.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_extreme_products_and_answers(sharp: float, size: float) -> None:
    """Products of all magnitudes, values that are all zero: numbers come out."""
    asked = ask(0, 3, sharp)
    keys, values = draw(1, 10)
    with np.errstate(invalid="raise", over="raise", divide="raise"):
        asked = asked.with_prompt(keys, np.float32(size) * values)
        for seed in (2, 3):
            weights, asked = asked.weigh(*draw(seed, 5))
            assert np.isfinite(weights).all() and (weights >= 0).all()
            for item in fields(asked):
                assert np.isfinite(getattr(asked, item.name)).all()


# policies


def test_expected_weights_are_added() -> None:
    policy = make_decode("scope-slide", {"ahead": "8", "ahead_weight": "3", "decay": "0.5"})
    acc, expected = one_head((1, 2, 0))[0], one_head((0, 0, 4))[0]
    assert policy.expect(acc, expected).tolist() == [[[1, 2, 12]]]
    assert acc.tolist() == [[[1, 2, 0]]] and expected.tolist() == [[[0, 0, 4]]]
    assert policy.expect(acc, expected).dtype == np.float32


def test_policies_that_look_ahead_say_so() -> None:
    assert all(make_decode(name, {}).ahead == 0 for name in ("full", "streaming-llm", "h2o"))
    assert make_decode("h2o", {"ahead": "5"}).ahead == 5
    foresight: object = make_decode("scope-foresight", {})
    assert vars(foresight)["ahead"] > 0 and vars(foresight)["ahead_weight"] > 0


def test_without_attention_no_query_is_asked_for() -> None:
    policy = make_decode("scope-slide", {"score": "none", "ahead": "8"})
    assert policy.needs_scores and policy.n_queries(7) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ahead": "-1"}, "ahead=-1: must be at least 0"),
        ({"ahead": "8", "ahead_weight": "-1"}, "ahead_weight=-1"),
        ({"score": "none"}, "score=none: needs ahead"),
        *[
            ({"ahead": "8", "score": score}, "ahead=8: needs score=accumulate or score=none")
            for score in ("window", "last", "peak", "last-use", "global")
        ],
    ],
)
def test_options_that_make_no_sense(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_decode("scope-slide", options)


@pytest.mark.parametrize("name", ["scope-foresight", "scope-slide", "h2o"])
def test_the_scores_decide(name: str) -> None:
    """A policy that looks ahead chooses by the scores that `expect` made, as any other."""
    sizes = {"heavy": "2", "recent": "1", "interval": "1"} if name == "h2o" else {}
    sizes = sizes or {"beta1": "2", "beta2": "1"}
    assert name in decode_policies()
    policy = make_decode(name, {**sizes, "ahead": "4", "ahead_weight": "10"})
    acc = np.array([[[5, 1, 2, 0, 3, 0]]], np.float32)
    expected = np.array([[[0, 1, 0, 0, 0, 0]]], np.float32)
    pos = np.arange(6, dtype=np.int32).reshape(1, 1, 6)
    kept = [
        np.flatnonzero(policy.select(View(pos, scores, 0, 6, None, 3))[0, 0]).tolist()
        for scores in (acc, policy.expect(acc, expected))
    ]
    assert kept == [[0, 4, 5], [0, 1, 5]]
