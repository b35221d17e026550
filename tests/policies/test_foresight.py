"""Foresight against loops in float64, from the formula alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.errors import UsageError
from scope_cpp.policies import View, decode_policies, make_decode
from scope_cpp.policies.scores.foresight import Asked, unlikeness, widened

from .naive import Foresight

L, HEADS, KV, D = 2, 6, 2, 4


def draw(seed: int, n: int, sharp: float = 1.0) -> np.ndarray:
    """Keys of `n` cells, read-only."""
    keys = (sharp * np.random.default_rng(seed).normal(size=(L, KV, n, D))).astype(np.float32)
    keys.setflags(write=False)
    return keys


def ask(seed: int, n_query: int, sharp: float = 1.0) -> Asked:
    rng = np.random.default_rng(seed)
    queries = (sharp * rng.normal(size=(L, HEADS, n_query, D))).astype(np.float16)
    return Asked.anew(queries)


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
    asked = locked(asked.with_prompt(prompt))
    naive.read(prompt)
    for i, n in enumerate(sizes[1:]):
        new = draw(seed + 2 + i, n)
        weights, asked = asked.weigh(new)
        locked(asked)
        expected = naive.weigh(new)
        assert weights.dtype == np.float32 and weights.shape == expected.shape
        assert weights == pytest.approx(expected, rel=2e-4, abs=2e-5)


@pytest.mark.parametrize("n_query", [0, 3])
def test_some_layers(n_query: int) -> None:
    """They are weighed as all are; the others find nothing, and remember nothing of these cells."""
    asked, new = ask(0, n_query).with_prompt(draw(1, 9)), draw(2, 5)
    weights, after = asked.weigh(new)
    layers = np.arange(L) % 2 == 1
    some, after_some = locked(asked).weigh(new, layers=layers)
    assert layers.any() and not layers.all()
    assert np.array_equal(some[layers], weights[layers]) and not some[~layers].any()
    assert np.array_equal(after_some.output[layers], after.output[layers])
    assert np.array_equal(after_some.output[~layers], asked.output[~layers])
    none, same = asked.weigh(new, layers=np.zeros(L, np.bool_))
    assert not none.any() and np.array_equal(same.output, asked.output)


@given(seed=st.integers(0, 2**32 - 2), cuts=st.sets(st.integers(1, 149), max_size=20))
def test_the_prompt_in_chunks(seed: int, cuts: set[int]) -> None:
    """Large ones and small ones: their products are computed in two ways."""
    keys = draw(seed, 150)
    asked = ask(seed + 1, 3, sharp=2.0)
    whole, parts = asked.with_prompt(keys), asked
    for chunk in np.split(np.arange(150), sorted(cuts)):
        parts = parts.with_prompt(keys[:, :, chunk])
    assert parts.prompt == pytest.approx(whole.prompt, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("first_chunk_dead", [True, False])
def test_dead_rows_give_nothing(first_chunk_dead: bool) -> None:
    """Whatever they hold, and where a whole chunk of a layer is dead."""
    keys = 100 * draw(0, 12)
    asked = ask(1, 3)
    dead = np.zeros((L, KV, 12), np.bool_)
    dead[1, :, 2:10:3] = True
    dead[1, :, slice(0, 4) if first_chunk_dead else slice(8, 12)] = True
    found = asked
    for at in (slice(0, 4), slice(4, 8), slice(8, 12)):
        found = found.with_prompt(keys[:, :, at], dead[:, :, at])
    for layer in range(L):
        alone = asked.with_prompt(keys[:, :, ~dead[layer, 0]])
        assert found.prompt[layer] == pytest.approx(alone.prompt[layer], rel=1e-5)


def test_threads_change_nothing() -> None:
    asked, keys = ask(0, 5), draw(1, 90)
    with ThreadPoolExecutor(2) as threads:
        alone, together = asked.with_prompt(keys), asked.with_prompt(keys, None, threads.map)
        assert np.array_equal(alone.prompt, together.prompt)
        new = draw(2, 7)
        (weights, after), (same, also) = alone.weigh(new), together.weigh(new, threads.map)
    assert np.array_equal(weights, same) and np.array_equal(after.output, also.output)


def one_head(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array([[rows]], np.float32)


def asking(*queries: tuple[float, ...]) -> Asked:
    return Asked.anew(one_head(*queries).astype(np.float16))


def test_what_the_prompt_has_takes_its_share() -> None:
    asked = asking((9.0, 0.0)).with_prompt(one_head((1, 0), (0, 1)))
    same, _ = asked.weigh(one_head((1, 0)))
    stronger, _ = asked.weigh(one_head((2, 0)))
    # alone in the output; next to the same key in the prompt, half of all attention
    assert same[0, 0, 0] == pytest.approx(1 + 0.5, abs=5e-3)
    assert stronger[0, 0, 0] == pytest.approx(2, abs=5e-3)


def test_the_cell_that_a_query_prefers_wins() -> None:
    """And what was weighed before, evicted since or not, competes still."""
    asked = asking((8.0, 0.0), (0.0, 8.0)).with_prompt(one_head((0, 0)))
    first, asked = asked.weigh(one_head((1, 0), (-1, -1)))
    assert first[0, 0, 0] == pytest.approx(2, rel=1e-2) and first[0, 0, 1] < 0.01
    again, asked = asked.weigh(one_head((1, 0)))
    new, asked = asked.weigh(one_head((0, 1)))
    assert again[0, 0, 0] == pytest.approx(first[0, 0, 0] / 2, rel=2e-2)
    assert new[0, 0, 0] > again[0, 0, 0]
    forgot, _ = asked.before_output().weigh(one_head((1, 0)))
    assert forgot[0, 0, 0] == pytest.approx(first[0, 0, 0], rel=2e-2)


def test_without_queries_all_weigh_alike() -> None:
    asked = Asked.anew(np.empty((L, HEADS, 0, 1), np.float16))
    weights, after = asked.weigh(draw(0, 5))
    assert weights.shape == (L, HEADS, 5) and (weights == 1).all()
    assert after.queries.shape == asked.queries.shape


@pytest.mark.parametrize("sharp", [0.0, 1e2, 1e4])
@pytest.mark.parametrize("keys", [0.0, 1.0, 1e4])
def test_extreme_products(sharp: float, keys: float) -> None:
    """Products of all magnitudes: numbers come out."""
    asked = ask(0, 3, sharp)
    with np.errstate(invalid="raise", over="raise", divide="raise"):
        asked = asked.with_prompt(draw(1, 10, keys))
        for seed in (2, 3):
            weights, asked = asked.weigh(draw(seed, 5, keys))
            assert np.isfinite(weights).all() and (weights >= 0).all()
            for item in fields(asked):
                assert np.isfinite(getattr(asked, item.name)).all()


def test_widened() -> None:
    """Every finite float16, subnormal ones and both zeros included."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(2, -1)
    wide = widened(halves)
    assert wide.dtype == np.float32
    assert np.array_equal(wide.view(np.uint32), halves.astype(np.float32).view(np.uint32))


def test_unlikeness() -> None:
    """From 1 for what is like nothing to 0 for a double; for each query head of a group."""
    likeness = one_head((-1,), (-0.2,), (0,), (0.5,), (1,), (1.0001,))[..., 0]
    found = unlikeness(likeness, 2, 3)
    assert found.shape == (1, 2, 6) and found.dtype == np.float32
    assert found[0, 0] == pytest.approx([1, 1, 1, 0.125, 0, 0])
    assert np.array_equal(found[0, 0], found[0, 1])


# policies


def test_what_new_rows_begin_with() -> None:
    weights, likeness = one_head((1, 2, 0))[0], one_head((0, 0.5, 0.5))[0]
    plain = make_decode("scope-slide", {"ahead": "8", "ahead_weight": "3"})
    assert plain.expect(weights, None, 10).tolist() == [[[30, 60, 0]]]
    unlike = make_decode("scope-slide", {"ahead": "8", "ahead_weight": "3", "unlike": "2"})
    assert unlike.expect(weights, likeness, 10).tolist() == [[[30, 15, 0]]]
    assert weights.tolist() == [[[1, 2, 0]]] and likeness.tolist() == [[[0, 0.5, 0.5]]]
    assert unlike.expect(weights, likeness, 10).dtype == np.float32


def test_policies_that_look_ahead_say_so() -> None:
    for name in ("full", "streaming-llm", "h2o"):
        policy = make_decode(name, {})
        assert policy.ahead == 0 and policy.unlike == 0
    assert make_decode("h2o", {"ahead": "5"}).ahead == 5
    foresight = make_decode("scope-foresight", {})
    assert foresight.ahead > 0 and foresight.unlike > 0


@pytest.mark.parametrize("chosen", ["ahead", "unlike"])
def test_without_attention_no_query_is_asked_for(chosen: str) -> None:
    policy = make_decode("scope-slide", {"score": "none", chosen: "8"})
    assert policy.needs_scores and policy.n_queries(7) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ahead": "-1"}, "ahead=-1: must be at least 0"),
        ({"ahead": "8", "ahead_weight": "-1"}, "ahead_weight=-1"),
        ({"score": "none"}, "score=none: needs ahead or unlike"),
        *[
            ({"ahead": "8", "score": score}, "ahead=8: needs score=accumulate or score=none")
            for score in ("window", "last", "peak", "last-use", "global")
        ],
        ({"unlike": "-1"}, "unlike=-1"),
        ({"unlike": "2", "score": "last"}, "unlike=2.0: needs score=accumulate or score=none"),
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
    policy = make_decode(name, {**sizes, "ahead": "4", "unlike": "0", "ahead_weight": "10"})
    acc = np.array([[[5, 1, 2, 0, 3, 0]]], np.float32)
    expected = policy.expect(np.array([[[0, 1, 0, 0, 0, 0]]], np.float32), None, 3)
    pos = np.arange(6, dtype=np.int32).reshape(1, 1, 6)
    kept = [
        np.flatnonzero(policy.select(View(pos, scores, 0, 6, None, 3))[0, 0]).tolist()
        for scores in (acc, acc + expected)
    ]
    assert kept == [[0, 4, 5], [0, 1, 5]]
