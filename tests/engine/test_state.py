"""Saving and loading, and taking tokens back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scope_cpp.engine.cache import rewind
from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.cache.state import CacheState, restore, snapshot
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.engine.drive import (
    GRANULARITIES,
    POLICIES,
    bounded,
    decode_each,
    error,
    kept,
    make_cache,
    open_context,
    options,
    random_tokens,
)

N_PROMPT, CAPACITY, N_BEFORE, N_AFTER = 50, 110, 137, 200
N_PREDICT = N_BEFORE + N_AFTER

TOKENS = random_tokens(N_PROMPT + N_PREDICT)
PROMPT, BEFORE, AFTER = TOKENS[:N_PROMPT], TOKENS[N_PROMPT:-N_AFTER], TOKENS[-N_AFTER:]
JUNK = random_tokens(20, seed=9)


def same(a: CacheState, b: CacheState) -> bool:
    arrays = [
        (a.native, b.native),
        *((vars(a.ledger)[n], vars(b.ledger)[n]) for n in vars(a.ledger)),
    ]
    numbers = (a.counters, a.stats, a.places) == (b.counters, b.stats, b.places)
    return numbers and all(np.array_equal(*pair) for pair in arrays)


@pytest.mark.parametrize(("kv", "flash"), [("f16", "on"), ("q8_0", "on"), ("f16", "off")])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_restored_cache_goes_on_as_the_first_would(
    tiny: Tiny, policy: str, granularity: str, kv: str, flash: str
) -> None:
    fields = options(policy, granularity=granularity, flash_attn=flash)
    with bounded(tiny(), N_PROMPT, N_PREDICT, CAPACITY, kv, **fields) as cache:
        cache.prefill(PROMPT)
        decode_each(cache, BEFORE)
        assert cache.stats.evicted > 0
        state, saved_rows = snapshot(cache), cache.positions()
        n_evicted = cache.stats.evicted
        logits = decode_each(cache, AFTER)
        rows, stats = cache.positions(), cache.stats
    with bounded(tiny(), N_PROMPT, N_PREDICT, CAPACITY, kv, **fields) as fresh:
        restore(fresh, state)
        assert np.array_equal(fresh.positions(), saved_rows)
        assert kv_evict.n_used(fresh.context.ptr) == fresh.stats.cells_used
        assert fresh.stats.evicted == n_evicted
        assert np.array_equal(decode_each(fresh, AFTER), logits)
        assert np.array_equal(fresh.positions(), rows)
        assert fresh.stats.evicted == stats.evicted > n_evicted
        assert fresh.stats.selections == stats.selections
        assert fresh.stats.attention_loss == stats.attention_loss


def test_taking_a_state_changes_nothing(tiny: Tiny) -> None:
    runs = []
    for takes in (False, True):
        with bounded(tiny(), N_PROMPT, N_PREDICT, CAPACITY, policy="scope-slide") as cache:
            cache.prefill(PROMPT)
            decode_each(cache, BEFORE)
            if takes:
                assert same(snapshot(cache), snapshot(cache))
            runs.append((decode_each(cache, AFTER), cache.positions()))
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_state_replaces_what_the_cache_held(tiny: Tiny) -> None:
    """Going back in the same context, as often as one likes."""
    with bounded(tiny(), N_PROMPT, N_PREDICT, CAPACITY, policy="h2o") as cache:
        cache.prefill(PROMPT)
        decode_each(cache, BEFORE)
        state = snapshot(cache)
        first = decode_each(cache, AFTER)
        decode_each(cache, JUNK)
        for _ in range(2):
            restore(cache, state)
            assert np.array_equal(decode_each(cache, AFTER), first)


def test_a_state_of_another_model_is_refused(tiny: Tiny) -> None:
    with bounded(tiny(n_layer=3), N_PROMPT, N_PREDICT, CAPACITY, policy="scope-slide") as other:
        other.prefill(PROMPT)
        state = snapshot(other)
    with bounded(tiny(), N_PROMPT, N_PREDICT, CAPACITY, policy="scope-slide") as cache:
        cache.prefill(PROMPT)
        logits = cache.context.logits()
        with pytest.raises(ScopeError):
            restore(cache, state)
        assert cache.n_past == N_PROMPT and kept(cache).max() == N_PROMPT - 1
        assert np.array_equal(cache.context.logits(), logits)
        decode_each(cache, BEFORE)
        assert kv_evict.n_used(cache.context.ptr) == cache.stats.cells_used


# taking tokens back


def start(cache: BoundedCache) -> None:
    cache.prefill(PROMPT)
    decode_each(cache, BEFORE)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped"])
def test_damaged_cells_are_refused(tiny: Tiny, damage: str) -> None:
    with bounded(tiny(), N_PROMPT, N_PREDICT, CAPACITY, policy="scope-slide") as cache:
        start(cache)
        good = snapshot(cache)
        flipped = good.native.copy()
        flipped[0] ^= 0xFF
        bad = {
            "empty": good.native[:0],
            "text": np.frombuffer(b"state", np.uint8),
            "cut": good.native[:-100],
            "flipped": flipped,
        }
        with pytest.raises(ScopeError):
            restore(cache, replace(good, native=bad[damage]))
        assert same(snapshot(cache), good)


def test_cells_of_another_ledger_are_refused(tiny: Tiny) -> None:
    with bounded(tiny(), N_PROMPT, N_PREDICT, CAPACITY, policy="scope-slide") as cache:
        cache.prefill(PROMPT)
        short = snapshot(cache)
        decode_each(cache, BEFORE[:5])
        with pytest.raises(ScopeError, match="the cells are not those"):
            restore(cache, replace(snapshot(cache), native=short.native))


@pytest.mark.parametrize("n_junk", [1, 5, 12])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_tokens_taken_back_leave_no_trace(tiny: Tiny, granularity: str, n_junk: int) -> None:
    fields = {"policy": "scope-slide", "options": ("interval=20",), "granularity": granularity}
    with bounded(tiny(), N_PROMPT, N_PREDICT, CAPACITY, **fields) as cache:
        cache.prefill(PROMPT)
        decode_each(cache, BEFORE[:122])
        expected, rows = decode_each(cache, AFTER), kept(cache)
        n_evicted = cache.stats.evicted
    with bounded(tiny(), N_PROMPT, N_PREDICT, CAPACITY, **fields) as cache:
        cache.prefill(PROMPT)
        decode_each(cache, BEFORE[:122])
        n_selections, used = cache.stats.selections, cache.stats.cells_used
        assert n_selections > 0
        decode_each(cache, JUNK[:n_junk])
        assert cache.stats.selections == n_selections  # else the rows would rightly differ
        rewind.rollback(cache, n_junk)
        assert kv_evict.n_used(cache.context.ptr) == cache.stats.cells_used == used
        assert cache.n_past == N_PROMPT + 122
        logits = decode_each(cache, AFTER)
        assert np.array_equal(kept(cache), rows)
        assert cache.stats.evicted == n_evicted
    assert error(logits, expected) < 3e-3


@pytest.mark.parametrize("policy", POLICIES)
def test_taking_back_tokens_across_a_selection(tiny: Tiny, policy: str) -> None:
    """What the selection gave up stays lost; the recent tokens and the counts are right."""
    with bounded(tiny(), N_PROMPT, N_PREDICT, CAPACITY, **options(policy)) as cache:
        start(cache)
        n_selections = cache.stats.selections
        decode_each(cache, JUNK[:14])
        assert cache.stats.selections > n_selections
        before = kept(cache)
        rewind.rollback(cache, 14)
        assert np.array_equal(kept(cache), before[:, :, :-14])
        decode_each(cache, AFTER[:150])
        assert kv_evict.n_used(cache.context.ptr) == cache.stats.cells_used <= CAPACITY
        assert (kept(cache)[:, :, -10:] == np.arange(cache.n_past - 10, cache.n_past)).all()


def test_what_was_evicted_cannot_be_taken_back(tiny: Tiny) -> None:
    runs = []
    for tries in (False, True):
        with bounded(tiny(), N_PROMPT, N_PREDICT, CAPACITY, policy="scope-slide") as cache:
            start(cache)
            if tries:
                check_refusals(cache)
            runs.append((decode_each(cache, AFTER), cache.positions()))
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))


def check_refusals(cache: BoundedCache) -> None:
    n_past, stats, rows = cache.n_past, vars(cache.stats).copy(), cache.positions()
    beta2 = cache.decode_policy.beta2  # type: ignore[attr-defined]
    cells = [part.tolist() for part in kv_evict.cells(cache.context.ptr, 0)]
    for n in (beta2 + 10, 100, N_BEFORE, n_past, n_past + 1, -1):
        with pytest.raises(ScopeError, match="can't be taken back"):
            rewind.rollback(cache, n)
    assert [part.tolist() for part in kv_evict.cells(cache.context.ptr, 0)] == cells
    assert cache.n_past == n_past and vars(cache.stats) == stats
    assert np.array_equal(cache.positions(), rows)


def test_as_many_as_the_recent_window_can_be_taken_back(tiny: Tiny) -> None:
    """All of the recent tokens but the one that becomes the newest."""
    with bounded(tiny(), N_PROMPT, N_PREDICT, CAPACITY, policy="scope-slide") as cache:
        start(cache)
        n = cache.decode_policy.beta2 - 1  # type: ignore[attr-defined]
        before = kept(cache)
        rewind.rollback(cache, n)
        assert np.array_equal(kept(cache), before[:, :, :-n])
        decode_each(cache, AFTER)
        assert kv_evict.n_used(cache.context.ptr) == cache.stats.cells_used <= CAPACITY


def test_nothing_is_taken_back(tiny: Tiny) -> None:
    with bounded(tiny(), N_PROMPT, N_PREDICT, CAPACITY, policy="scope-slide") as cache:
        start(cache)
        rows, n_past = cache.positions(), cache.n_past
        rewind.rollback(cache, 0)
        assert np.array_equal(cache.positions(), rows) and cache.n_past == n_past


def test_a_whole_cache_takes_back_what_it_likes(tiny: Tiny) -> None:
    """Where everything fits, every token but the first can go."""
    with open_context(tiny(), 256) as context:
        cache = make_cache(context, N_PROMPT, 100, policy="scope-slide", budget=200)
        assert not cache.bounded
        cache.prefill(PROMPT)
        expected = decode_each(cache, AFTER[:50])
        rewind.rollback(cache, 50)
        assert kv_evict.n_used(context.ptr) == N_PROMPT == cache.stats.cells_used
        assert np.array_equal(decode_each(cache, AFTER[:50]), expected)


def test_cells_removed_by_others_are_noticed(tiny: Tiny) -> None:
    with bounded(tiny(), N_PROMPT, N_PREDICT, CAPACITY, policy="scope-slide") as cache:
        start(cache)
        cache.positions()
        _, ids, _ = kv_evict.cells(cache.context.ptr, 0)
        none = np.zeros((*cache.positions().shape[:2], 0), np.int32)
        kv_evict.apply(cache.context.ptr, 0, none, none, ids[3:4])
        with pytest.raises(ScopeError, match="outside the engine"):
            decode_each(cache, AFTER)
