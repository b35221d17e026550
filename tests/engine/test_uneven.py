"""Layers that keep different numbers of rows: exact in what is attended, hard in the cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.engine.cache import rewind
from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.cache.choice import choose
from scope_cpp.engine.cache.state import restore, snapshot
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.sizes import conversation_policies
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.native import kv_evict
from scope_cpp.policies import View
from tests.conftest import Tiny
from tests.engine.drive import (
    Spy,
    bounded,
    decode_each,
    error,
    kept,
    make_cache,
    open_context,
    random_tokens,
)
from tests.engine.mirror import Mirror

N_PROMPT, N_OUTPUT, BUDGET, N_LAYER = 60, 100, 100, 4
PROMPT = random_tokens(N_PROMPT)
OUTPUT = random_tokens(N_OUTPUT, seed=6)

# prefill and decode, each of which may give layers different sizes
CASES: dict[str, dict[str, Any]] = {
    "pyramidkv, then slide": {
        "prefill": "pyramidkv",
        "policy": "scope-slide",
        "options": ("alpha1=24", "interval=5"),
    },
    "pyramidkv, then h2o": {
        "prefill": "pyramidkv",
        "policy": "h2o",
        "options": ("alpha1=24", "interval=3"),
    },
    "pyramidinfer, then streaming": {
        "prefill": "pyramidinfer",
        "policy": "streaming-llm",
        "options": ("alpha1=20", "window=16"),
    },
    "pyramidinfer in decode": {
        "prefill": "full",
        "policy": "pyramidinfer",
        "options": ("heavy=30", "window=8"),
    },
    "pyramidinfer in both": {
        "prefill": "pyramidinfer",
        "policy": "pyramidinfer",
        "options": ("alpha1=20", "heavy=24", "window=8", "interval=7"),
    },
}
# K and V, flash attention, and how much logits may differ, see test_oracle: the rows of q8_0 are
# rounded differently on the two sides; rows that are not those of the other side give 0.5
KINDS = [("f16", "on", 3e-3), ("f32", "off", 2e-4), ("q8_0", "on", 8e-2)]
every_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def sizes(cache: BoundedCache) -> npt.NDArray[np.int64]:
    """Rows of each layer."""
    rows = (cache.positions() >= 0).sum(axis=2)
    assert (rows == rows[:, :1]).all(), "heads of a layer hold equally many"
    return rows[:, 0]


def check_dead(cache: BoundedCache) -> None:
    """llama.cpp, the ledger and the statistics say the same of which rows are dead."""
    _, ids, _ = kv_evict.cells(cache.context.ptr, cache.seq)
    dead = kv_evict.get_dead(cache.context.ptr, cache.seq, ids)
    assert np.array_equal((cache.positions() < 0).all(axis=1), dead)
    assert np.array_equal(cache.ledger.dead, dead)
    assert cache.stats.cells_used - cache.stats.dead_rows == sizes(cache).mean()
    assert sizes(cache).max() == cache.stats.cells_used


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, KINDS[0]) for name in CASES), *(("pyramidinfer in both", k) for k in KINDS[1:])],
    ids=str,
)
def test_logits(tiny: Tiny, name: str, kind: tuple[str, str, float]) -> None:
    """As a llama in NumPy computes them whose heads hold the same tokens."""
    case, (kv, flash, bound) = CASES[name], kind
    path = tiny(n_layer=N_LAYER)
    mirror = Mirror(path, "f32" if kv == "f32" else "f16", N_PROMPT + N_OUTPUT)
    ours, theirs, n_uneven = [], [], 0
    with bounded(path, N_PROMPT, N_OUTPUT, BUDGET, kv, flash, **case) as cache:
        cache.prefill(PROMPT)
        mirror.decode(PROMPT)
        mirror.hold(kept(cache))
        for token in OUTPUT:
            cache.decode(token)
            held = kept(cache)
            mirror.hold(np.where(held == cache.n_past - 1, -1, held))
            theirs.append(mirror.decode([token]))
            ours.append(cache.context.logits())
            assert kv_evict.n_used(cache.context.ptr) <= cache.capacity <= BUDGET
            assert all(np.isin(mirror.held()[at], held[at]).all() for at in np.ndindex(N_LAYER, 2))
            n_uneven += len(set(sizes(cache))) > 1
        assert cache.stats.selections > 2 and n_uneven > 20
        check_dead(cache)
    assert error(np.stack(ours), np.stack(theirs)) < bound


@every_case
@pytest.mark.parametrize("flash", ["on", "off"])
def test_dead_rows_have_no_score(tiny: Tiny, case: dict[str, Any], flash: str) -> None:
    """Neither does a policy see one."""
    with bounded(tiny(n_layer=N_LAYER), N_PROMPT, N_OUTPUT, BUDGET, "f16", flash, **case) as cache:
        cache.decode_policy = spy = Spy(cache.decode_policy)  # type: ignore[assignment]
        cache.prefill(PROMPT)
        n_dead = 0
        for token in OUTPUT:
            cache.decode(token)
            dead = np.repeat(cache.ledger.dead[:, None], 2, axis=1)
            assert not cache.ledger.scores[dead].any()
            n_dead += int(dead.any())
        assert n_dead > 20
    assert all((view.pos >= 0).all() for view in spy.views)
    layers = [view.layer for view in spy.views]
    assert layers[:N_LAYER] == list(range(N_LAYER)) and set(layers) >= {0, 1, 2, 3}


@pytest.mark.parametrize("flash", ["on", "off"])
def test_equal_sizes_are_the_even_policy_bit_by_bit(tiny: Tiny, flash: str) -> None:
    """β = 1 gives all layers the mean; one layer alone has it too."""
    logits, held = [], []
    for prefill, more in (("snapkv", ()), ("pyramidkv", ("beta=1",))):
        case = {"prefill": prefill, "policy": "scope-slide"}
        chosen = ("alpha1=24", "prefill.window=8", "interval=5", *more)
        with bounded(tiny(), N_PROMPT, N_OUTPUT, BUDGET, "f16", flash, options=chosen, **case) as c:
            c.prefill(PROMPT)
            logits.append(decode_each(c, OUTPUT))
            held.append(kept(c))
            assert c.stats.dead_rows == 0 and c.stats.evicted > 0
    assert np.array_equal(logits[0], logits[1])
    assert np.array_equal(held[0], held[1])


def test_the_mean_is_the_given_one(tiny: Tiny) -> None:
    """The budget holds for the first layer, the mean for all of them."""
    case: dict[str, Any] = {"prefill": "pyramidkv", "policy": "scope-slide"}
    with bounded(
        tiny(n_layer=N_LAYER), N_PROMPT, N_OUTPUT, BUDGET, options=("alpha1=20",), **case
    ) as cache:
        cache.prefill(PROMPT)
        assert sizes(cache).tolist() == [39 + 8, 26 + 8, 14 + 8, 1 + 8]
        assert sizes(cache).mean() == 20 + 8
        assert cache.stats.cells_used == 47 and cache.stats.dead_rows == 47 - 28
    with bounded(tiny(n_layer=N_LAYER), N_PROMPT, N_OUTPUT, 64, **case) as cache:
        cache.prefill(PROMPT)
        assert cache.stats.cells_used <= 64 * 3 // 4 < 64


def test_a_budget_above_the_largest_layer_drops_rows_all_the_same(tiny: Tiny) -> None:
    case: dict[str, Any] = {"prefill": "pyramidkv", "policy": "full", "options": ("alpha1=40",)}
    with bounded(tiny(n_layer=N_LAYER), N_PROMPT, 20, 90, **case) as cache:
        cache.prefill(PROMPT)
        assert sizes(cache).tolist() == [60, 52, 44, 36]
        assert sizes(cache).mean() == 40 + 8
        decode_each(cache, OUTPUT[:20])
        assert sizes(cache).tolist() == [80, 72, 64, 56]


@every_case
@pytest.mark.parametrize("flash", ["on", "off"])
def test_a_saved_cache_goes_on_bit_by_bit(tiny: Tiny, case: dict[str, Any], flash: str) -> None:
    path, at, kv = tiny(n_layer=N_LAYER), 57, "q8_0" if flash == "on" else "f16"
    with bounded(path, N_PROMPT, N_OUTPUT, BUDGET, kv, flash, **case) as cache:
        cache.prefill(PROMPT)
        decode_each(cache, OUTPUT[:at])
        state = snapshot(cache)
        expected, held = decode_each(cache, OUTPUT[at:]), kept(cache)
        cache.clear()
        cache.prefill(PROMPT[::-1])  # other rows are dead meanwhile
        decode_each(cache, OUTPUT[:30])
        restore(cache, state)
        check_dead(cache)
        assert np.array_equal(decode_each(cache, OUTPUT[at:]), expected)
        assert np.array_equal(kept(cache), held)


def test_a_cache_moved_elsewhere_has_the_same_dead_rows(tiny: Tiny) -> None:
    path, case = tiny(n_layer=N_LAYER), CASES["pyramidkv, then slide"]
    with bounded(path, N_PROMPT, N_OUTPUT, BUDGET, **case) as cache:
        cache.prefill(PROMPT)
        decode_each(cache, OUTPUT[:50])
        state, held = snapshot(cache, places=False), kept(cache)
        expected = decode_each(cache, OUTPUT[50:55])
    with bounded(path, N_PROMPT, N_OUTPUT, BUDGET, **case) as cache:
        restore(cache, state)
        assert np.array_equal(kept(cache), held)
        check_dead(cache)
        assert error(decode_each(cache, OUTPUT[50:55]), expected) < 3e-3


def test_sequences_do_not_disturb_each_other(tiny: Tiny) -> None:
    path, case = tiny(n_layer=N_LAYER), CASES["pyramidkv, then slide"]
    alone = []
    for tokens in (PROMPT, PROMPT[::-1]):
        with bounded(path, N_PROMPT, N_OUTPUT, BUDGET, **case) as cache:
            cache.prefill(tokens)
            alone.append(decode_each(cache, OUTPUT))
    with open_context(path, 2 * BUDGET, n_seq_max=2) as context:
        caches = [
            make_cache(context, N_PROMPT, N_OUTPUT, seq=seq, budget=BUDGET, **case)
            for seq in range(2)
        ]
        for cache, tokens in zip(caches, (PROMPT, PROMPT[::-1]), strict=True):
            cache.prefill(tokens)
        logits: list[list[Any]] = [[], []]
        for token in OUTPUT:
            for cache, rows in zip(caches, logits, strict=True):
                rows.extend(decode_each(cache, [token]))
        for cache, rows, expected in zip(caches, logits, alone, strict=True):
            assert error(np.stack(rows), expected) < 3e-3
            check_dead(cache)


def test_tokens_are_taken_back(tiny: Tiny) -> None:
    with bounded(
        tiny(n_layer=N_LAYER), N_PROMPT, N_OUTPUT, BUDGET, **CASES["pyramidkv, then slide"]
    ) as cache:
        cache.prefill(PROMPT)
        decode_each(cache, OUTPUT[:51])
        before = decode_each(cache, OUTPUT[51:54])
        rewind.rollback_unselected(cache, 3)
        check_dead(cache)
        assert np.array_equal(decode_each(cache, OUTPUT[51:54]), before)


def test_long_prompts_are_read_within_the_cells(tiny: Tiny) -> None:
    """In chunks every layer keeps what there is room for; at the end its own number."""
    case: dict[str, Any] = {"prefill": "pyramidkv", "policy": "scope-slide"}
    with bounded(tiny(n_layer=N_LAYER), 300, N_OUTPUT, BUDGET, **case) as cache:
        cache.prefill(random_tokens(300))
        assert cache.stats.cells_peak <= BUDGET
        assert len(set(sizes(cache))) == N_LAYER
        decode_each(cache, OUTPUT)
        check_dead(cache)
        assert cache.stats.cells_peak <= BUDGET


# what is refused


@pytest.mark.parametrize("flag", [{"policy": "pyramidinfer"}, {"prefill": "pyramidkv"}])
def test_whole_cells_and_conversations(flag: dict[str, str]) -> None:
    with pytest.raises(
        UsageError, match="of its own, and --granularity cell .* give --granularity"
    ):
        Settings(granularity="cell", **flag)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="and a conversation's turns .* choose another"):
        conversation_policies(Settings(**flag), 1000, None)  # type: ignore[arg-type]


def test_policies_that_compare_layers() -> None:
    options = ("mix=0.5", "mix_over=model")
    Settings(policy="h2o", options=options)
    Settings(policy="h2o", options=("mix=0.5",), prefill="pyramidkv")
    with pytest.raises(UsageError, match="compares the rows of all layers"):
        Settings(policy="h2o", options=options, prefill="pyramidkv")


def test_whole_cells_of_a_cache_that_is_uneven(tiny: Tiny) -> None:
    with bounded(
        tiny(n_layer=N_LAYER), N_PROMPT, N_OUTPUT, BUDGET, **CASES["pyramidkv, then slide"]
    ) as cache:
        cache.prefill(PROMPT)
        with pytest.raises(ScopeError, match="--granularity head must stay"):
            cache.set_policies(cache.decode_policy, cache.prefill_policy, True, True)


class Uneven:
    """A policy that keeps one row more in layer 1, or in one of its heads, whatever it is asked."""

    def __init__(self, policy: Any, only_head: bool, may: bool) -> None:
        self.policy, self.only_head, self.uneven = policy, only_head, may

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def select(self, view: View) -> npt.NDArray[np.bool_]:
        keep = np.zeros(view.pos.shape, np.bool_)
        keep[:, :, -8:] = True
        if view.layer in (None, 1):
            keep[-1, slice(1) if self.only_head else slice(None), -9] = True
        return keep


@pytest.mark.parametrize(("only_head", "may"), [(True, True), (True, False), (False, False)])
def test_numbers_that_nobody_allowed(tiny: Tiny, only_head: bool, may: bool) -> None:
    with bounded(tiny(), N_PROMPT, N_OUTPUT, BUDGET, policy="h2o") as cache:
        cache.decode_policy = Uneven(cache.decode_policy, only_head, may)  # type: ignore[assignment]
        cache.prefill(PROMPT)
        with pytest.raises(ScopeError, match="different number of cells in different heads"):
            decode_each(cache, OUTPUT)


# asking layer by layer


def test_choose_by_layer() -> None:
    pos = np.array([[[0, 1, 2, 3, 4]], [[-1, 1, -1, 3, 4]]], np.int32)
    view = View(pos, pos.astype(np.float32), 3, 5, None, 3, layer=None)
    seen: list[View] = []

    def select(view: View) -> npt.NDArray[np.bool_]:
        seen.append(view)
        return np.asarray(view.pos >= 3)

    shared = np.array([False, True, False, False, False])
    keep = choose(select, view, shared, by_layer=True)
    assert keep.tolist() == [[[False, True, False, True, True]], [[False, True, False, True, True]]]
    assert [view.pos.tolist() for view in seen] == [[[[0, 2, 3, 4]]], [[[3, 4]]]]
    assert [(view.layer, view.n_layers, view.limit) for view in seen] == [(0, 2, 2), (1, 2, 2)]


def test_values_and_keys_of_the_layer(tiny: Tiny) -> None:
    """A policy that is asked layer by layer gets that layer's rows."""
    chosen = ("alpha1=24", "window=4", "prefill.window=8")
    case = {"prefill": "pyramidkv", "policy": "r-kv", "options": chosen}
    with bounded(tiny(n_layer=N_LAYER), N_PROMPT, N_OUTPUT, BUDGET, **case) as cache:  # type: ignore[arg-type]
        cache.decode_policy = spy = Spy(cache.decode_policy)  # type: ignore[assignment]
        cache.prefill(PROMPT)
        _, ids, _ = kv_evict.cells(cache.context.ptr, 0)
        rows, pos = kv_evict.rows(cache.context.ptr, 0, ids), cache.positions().copy()
        while not spy.views:
            decode_each(cache, OUTPUT[:1])
        for view in spy.views[:N_LAYER]:
            assert view.keys is not None and view.layer is not None
            at = pos[view.layer]
            for head in range(2):
                held = {int(p): k for p, k in zip(at[head], rows[view.layer, head], strict=True)}
                for p, k in zip(view.pos[0, head], view.keys[0, head], strict=True):
                    assert p >= N_PROMPT or np.array_equal(k, held[int(p)])
