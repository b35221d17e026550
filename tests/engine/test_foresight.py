"""Cells that the prompt's queries weigh ahead: scores, states, and what is not asked again."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.engine.cache import rewind
from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.cache.state import restore, snapshot
from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp
from scope_cpp.policies.scope_retrieval import Rows, ScopeRetrieval
from tests.conftest import Tiny
from tests.engine.drive import (
    F32,
    GRANULARITIES,
    Spy,
    bounded,
    decode_each,
    kept,
    make_cache,
    open_context,
    random_tokens,
)
from tests.engine.talk import check_budget, converse, finish, holds, same, say
from tests.policies import naive

Int32 = npt.NDArray[np.int32]

N_PROMPT, N_OUTPUT, CAPACITY = 50, 70, 80
PROMPT, OUTPUT = random_tokens(N_PROMPT), random_tokens(N_OUTPUT, seed=6)

N_ASKED = 3
AHEAD = (f"ahead={N_ASKED}", "ahead_weight=3")
ALONE = ("score=none", *AHEAD)
Q8: dict[str, Any] = {"kv": "q8_0"}
PLAIN: dict[str, Any] = {"kv": "f32", "flash_attn": "off"}


class Recorder(Spy):
    """Takes note of what is merged into the scores, too."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        self.observed: list[F32] = []
        self.weights: list[F32] = []
        self.likeness: list[F32 | None] = []
        self.expected: list[F32] = []

    def fold(self, acc: Any, observed: Any, n: int) -> Any:
        self.observed.append(observed)
        return super().fold(acc, observed, n)

    def foresee(self, acc: Any, weights: Any, likeness: Any, n_cells: int) -> Any:
        self.weights.append(weights)
        self.likeness.append(likeness)
        self.expected.append(self.policy.expect(weights, likeness, n_cells))
        return self.policy.foresee(acc, weights, likeness, n_cells)


def record(cache: BoundedCache) -> Recorder:
    spy: Any = Recorder(cache.decode_policy)
    cache.decode_policy = spy
    return spy


def rows(cache: BoundedCache, n: int | None = None) -> tuple[F32, F32]:
    """K and V of all cells, or of the last `n`."""
    _, ids, _ = kv_evict.cells(cache.context.ptr, cache.seq)
    ids = ids if n is None else ids[-n:].copy()
    ptr = cache.context.ptr
    return kv_evict.rows(ptr, cache.seq, ids), kv_evict.rows(ptr, cache.seq, ids, values=True)


def asked_by_hand(cache: BoundedCache) -> naive.Foresight:
    """After the prompt: its last queries behind it, and what it holds."""
    pos = cache.n_past + cache.capacity
    asked = naive.Foresight(kv_evict.queries(cache.context.ptr, cache.seq, N_ASKED, pos))
    cache.positions()
    asked.read(rows(cache)[0], cache.ledger.dead)
    return asked


def by_pos(rows: Any, pos: Int32, n: int) -> Any:
    """What rows have, by their true positions: (layer, head, n)."""
    found = np.zeros((*rows.shape[:2], n))
    at = np.repeat(pos, rows.shape[1] // pos.shape[1], axis=1)
    np.put_along_axis(found, at, rows, axis=2)
    return found


def follow(cache: BoundedCache, spy: Recorder, asked: naive.Foresight) -> None:
    """Decode the output; compare every weight, and every score with the sum of its parts."""
    n, done = N_PROMPT + N_OUTPUT, cache.n_past
    total = by_pos(cache.ledger.scores, cache.positions(), n)
    fresh: list[F32] = []
    n_cells = cache.capacity - cache.n_prompt_cells
    for token in OUTPUT:
        before = cache.positions()
        cache.decode(token)
        if len(spy.expected) + len(spy.observed):
            weights = asked.weigh(np.concatenate(fresh, axis=2))
            if not cache.whole_cells:
                shape = before.shape[0], before.shape[1], -1, weights.shape[2]
                weights = weights.reshape(shape).max(axis=2)
            assert len(spy.expected) == 1
            assert spy.weights[-1] == pytest.approx(weights, rel=2e-3, abs=2e-3)
            new = spy.expected[0]
            assert (spy.likeness[-1] is None) == (not cache.decode_policy.unlike)
            if spy.likeness[-1] is None:
                assert new == pytest.approx(3 * n_cells * spy.weights[-1], rel=1e-5)
            expected = np.zeros((*new.shape[:2], before.shape[2]), np.float32)
            expected[:, :, expected.shape[2] - new.shape[2] :] = new
            done += weights.shape[2]
            observed = [by_pos(part, before, n) for part in spy.observed]
            total += sum(observed) + by_pos(expected, before, n)
            fresh, spy.observed, spy.expected = [], [], []
        fresh.append(rows(cache, 1)[0])
        assert kv_evict.n_used(cache.context.ptr) == cache.stats.cells_used <= cache.capacity
        after = cache.positions()
        at = np.repeat(after, total.shape[1] // after.shape[1], axis=1)
        wanted = np.take_along_axis(total, at, axis=2)
        assert cache.ledger.scores == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    assert cache.stats.evicted > 20 and done > N_PROMPT + N_OUTPUT // 2


@pytest.mark.parametrize(
    ("chosen", "granularity", "cache_type"),
    [
        ((*AHEAD, "interval=1"), "head", {}),
        ((*AHEAD, "interval=5"), "head", Q8),
        ((*AHEAD, "interval=5"), "cell", PLAIN),
        ((*ALONE, "interval=1"), "cell", {}),
        ((*ALONE, "interval=5"), "cell", Q8),
        ((*ALONE, "interval=5"), "head", PLAIN),
    ],
    ids=str,
)
def test_scores_are_attention_and_weights_ahead(
    tiny: Tiny, chosen: tuple[str, ...], granularity: str, cache_type: dict[str, Any]
) -> None:
    fields: dict[str, Any] = {
        "policy": "scope-slide",
        "options": chosen,
        "granularity": granularity,
    }
    with bounded(tiny(), N_PROMPT, N_OUTPUT, CAPACITY, **cache_type, **fields) as cache:
        cache.prefill(PROMPT)
        asked = asked_by_hand(cache)
        follow(cache, record(cache), asked)


def test_attention_decides_too(tiny: Tiny) -> None:
    """What a weight of 0 adds is nothing; with one, other cells stay."""
    held = []
    for chosen in ((), ("ahead=3", "ahead_weight=0"), ("ahead=3",), ALONE):
        fields: dict[str, Any] = {"policy": "scope-slide", "options": chosen}
        with bounded(tiny(), N_PROMPT, N_OUTPUT, CAPACITY, **fields) as cache:
            cache.prefill(PROMPT)
            decode_each(cache, OUTPUT)
            held.append(kept(cache))
    assert np.array_equal(held[0], held[1])
    assert not np.array_equal(held[1], held[2]) and not np.array_equal(held[2], held[3])


@pytest.mark.parametrize("prefill", ["snapkv", "pyramidkv"])
def test_what_a_prefill_left_is_asked(tiny: Tiny, prefill: str) -> None:
    """Each head its own rows; of a layer that keeps fewer, the dead ones give nothing."""
    chosen = (*AHEAD, "alpha1=16", "prefill.window=8")
    fields: dict[str, Any] = {"policy": "scope-slide", "options": chosen, "prefill": prefill}
    with bounded(tiny(), N_PROMPT, N_OUTPUT, 60, **fields) as cache:
        cache.prefill(PROMPT)
        assert cache.n_prompt_cells < N_PROMPT
        assert cache.ledger.dead.any() == (prefill == "pyramidkv")
        by_hand = asked_by_hand(cache)
        if prefill == "snapkv":
            follow(cache, record(cache), by_hand)
        decode_each(cache, OUTPUT)
        found = snapshot(cache).asked
        assert found is not None and found.read.all()
        for at, one in by_hand.asked.items():
            total = naive.log_total(one.prompt)
            assert found.prompt[at] == pytest.approx(total, rel=2e-3, abs=2e-3)


def test_cells_wait_to_be_weighed_until_it_is_known_what_heads_do(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt is gone through then, not before the first token; later cells do not wait."""
    all_layers = np.ones(2, np.bool_)
    monkeypatch.setattr(ScopeRetrieval, "looks_ahead", lambda policy, acc: all_layers)
    chosen = (f"ahead={N_ASKED}", "unlike=0")
    fields: dict[str, Any] = {"policy": "scope-retrieval", "options": chosen}
    n, known = 200, 128  # four times the 32 queries that are recorded
    output = random_tokens(n, seed=6)
    with bounded(tiny(), N_PROMPT, n + 10, N_PROMPT + n + 9, **fields) as cache:
        cache.prefill(PROMPT)
        asked, n_cells = asked_by_hand(cache), n + 9
        decode_each(cache, output[:known])
        waiting, found = Rows(*cache.ledger.scores), cache.scorer.foresight.asked
        assert found is not None and not found.read.any()
        assert cache.scorer.unweighed == known
        assert (waiting.price[..., N_PROMPT:] == np.float32(1e-6)).all()
        cache.decode(output[known])
        found = cache.scorer.foresight.asked
        assert found is not None and found.read.all()
        assert cache.scorer.unweighed == 1
        decode_each(cache, output[known + 1 :])
        cache.settle()
        assert cache.stats.selections == cache.scorer.unweighed == 0
        keys = rows(cache, n)[0]
        price = Rows(*cache.ledger.scores).price[..., N_PROMPT:]
    ends = [0, 64, known, known + 32, known + 64, n]
    parts = [keys[:, :, start:end] for start, end in pairwise(ends)]
    weights = np.concatenate([asked.weigh(part) for part in parts], axis=2)
    weights = weights.reshape(*price.shape[:2], -1, n).max(axis=2)
    expected = 3 * n_cells * weights
    assert price == pytest.approx(expected / (30 + expected), rel=5e-3)


def test_attention_is_not_read_where_no_score_has_it(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(kv_evict, "scores", refuse)
    fields: dict[str, Any] = {"policy": "scope-foresight", "options": ("score=none",)}
    with bounded(tiny(), N_PROMPT, N_OUTPUT, CAPACITY, **fields) as cache:
        cache.prefill(PROMPT)
        decode_each(cache, OUTPUT)
        assert cache.stats.evicted > 20


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(
    "policy, chosen",
    [
        ("scope-slide", AHEAD),
        ("scope-slide", (*ALONE, "interval=5")),
        ("scope-foresight", ()),
        ("scope-adaptive", AHEAD),
        ("h2o", (*AHEAD, "interval=3")),
    ],
)
def test_a_saved_state_goes_on_bit_by_bit(
    tiny: Tiny, policy: str, chosen: tuple[str, ...], granularity: str
) -> None:
    """Saved before and after the first selection, and between two."""
    fields: dict[str, Any] = {"policy": policy, "options": chosen, "granularity": granularity}
    states, first, ends = [], [], []
    with bounded(tiny(), N_PROMPT, N_OUTPUT, CAPACITY, **fields) as cache:
        cache.prefill(PROMPT)
        for begin in (0, 17, 43):
            states.append((begin, snapshot(cache)))
            end = {0: 17, 17: 43, 43: N_OUTPUT}[begin]
            first.append(decode_each(cache, OUTPUT[begin:end]))
        logits = np.concatenate(first)
        ends.append((cache.positions(), cache.ledger.scores))
        assert cache.stats.evicted > 20
    for begin, state in states:
        with bounded(tiny(), N_PROMPT, N_OUTPUT, CAPACITY, **fields) as fresh:
            restore(fresh, state)
            assert np.array_equal(decode_each(fresh, OUTPUT[begin:]), logits[begin:])
            assert np.array_equal(fresh.positions(), ends[0][0])
            assert np.array_equal(fresh.ledger.scores, ends[0][1])


@pytest.mark.parametrize("chosen", [AHEAD, (*ALONE, "interval=5")], ids=" ".join)
def test_after_the_prompt_nothing_competes(tiny: Tiny, chosen: tuple[str, ...]) -> None:
    """A saved mark has the queries of now, of which the output so far must be forgotten."""
    fields: dict[str, Any] = {"policy": "scope-slide", "options": chosen}
    with bounded(tiny(), N_PROMPT, N_OUTPUT, CAPACITY, **fields) as cache:
        cache.prefill(PROMPT)
        mark, runs = rewind.mark(cache), []
        for _ in range(2):
            decode_each(cache, OUTPUT)
            runs.append((cache.positions(), cache.ledger.scores))
            mark.asked = snapshot(cache).asked
            assert mark.asked is not None and np.isfinite(mark.asked.output).all()
            assert rewind.return_to(cache, mark)
        assert cache.stats.evicted == 0 and np.array_equal(runs[0][0], runs[1][0])
        assert runs[1][1] == pytest.approx(runs[0][1], rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("chosen", [("ahead=9",), ("score=none", "ahead=9")], ids=" ".join)
def test_a_prompt_with_fewer_queries_than_asked_for(tiny: Tiny, chosen: tuple[str, ...]) -> None:
    fields: dict[str, Any] = {"policy": "scope-slide", "options": chosen}
    with bounded(tiny(), 4, N_OUTPUT, 30, **fields) as cache:
        cache.prefill(PROMPT[:4])
        asked = snapshot(cache).asked
        assert asked is not None and asked.queries.shape[2] == 2  # the second half
        assert cache.stats.query_bytes == sum(part.nbytes for part in vars(asked).values()) > 0
        decode_each(cache, OUTPUT)
        assert kv_evict.n_used(cache.context.ptr) == cache.stats.cells_used <= 30


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_policy_that_ranks_the_prompt_too(tiny: Tiny, granularity: str) -> None:
    """Of its prompt it has the attention; only cells of the output are weighed ahead."""
    fields: dict[str, Any] = {
        "policy": "h2o",
        "options": (*AHEAD, "interval=3"),
        "granularity": granularity,
    }
    with bounded(tiny(), N_PROMPT, N_OUTPUT, CAPACITY, **fields) as cache:
        cache.prefill(PROMPT)
        spy, asked = record(cache), asked_by_hand(cache)
        follow(cache, spy, asked)


def test_a_shared_prompt_has_no_queries(tiny: Tiny) -> None:
    """Who takes over its cells ranks by the attention of the output alone."""
    held = []
    for chosen in ((), AHEAD):
        with open_context(tiny(), 256, n_seq_max=2) as context:
            plain: dict[str, Any] = {"policy": "scope-slide", "budget": CAPACITY}
            first = make_cache(context, N_PROMPT, N_OUTPUT, **plain)
            first.prefill(PROMPT)
            llama_cpp.llama_memory_seq_cp(context.memory, 0, 1, -1, -1)
            cache = make_cache(context, N_PROMPT, N_OUTPUT, seq=1, **plain, options=chosen)
            cache.adopt(N_PROMPT)
            decode_each(cache, OUTPUT)
            assert cache.stats.evicted > 20 and snapshot(cache).asked is None
            held.append(kept(cache))
    assert np.array_equal(held[0], held[1])


# conversations

TALK: dict[str, Any] = {
    "policy": "scope-slide",
    "n_predict": 60,
    "options": ("beta1=16", "beta2=16", "interval=4", *AHEAD),
}


def test_only_a_prompt_of_its_own_is_asked(tiny: Tiny) -> None:
    """Not the answer before it, whose queries may be recorded still."""
    with converse(tiny(), 600, **{**TALK, "options": ("ahead=40",)}) as talk:
        for text in ("the cat is in the house and the rat is on it, and there is a hat", "no"):
            say(talk, text)
            asked = snapshot(talk.cache).asked
            assert asked is not None
            n_read = len(talk.cached.turns[-1].tokens)
            assert asked.queries.shape[2] == min(40, (n_read + 1) // 2)
        assert len(talk.cached.turns[-1].tokens) < 40


@pytest.mark.parametrize("size", [{"budget": 600}, {"budget": 130, "policy": "h2o"}], ids=str)
def test_queries_that_were_forgotten_are_found_again(tiny: Tiny, size: dict[str, Any]) -> None:
    """A mark without them is no point to return to: the turns are gone through again."""
    fields: dict[str, Any] = {**TALK, **size}
    if "policy" in size:
        fields |= {"n_predict": 50, "options": AHEAD}
    with converse(tiny(), **fields) as talk:
        for text in ("a cat", "the rat", "there"):
            answer = say(talk, text)
        before, logits = holds(talk), talk.context.logits()
        for turn in talk.cached.turns:
            assert turn.after is not None
            turn.after.asked = None
        mark = talk.cached.turns[-1].after
        assert mark is not None and not rewind.return_to(talk.cache, mark)
        assert finish(talk, talk.regenerate()) == answer
        assert same(holds(talk), before)
        assert np.array_equal(talk.context.logits(), logits)


def test_foresight_begins_with_the_next_answer(tiny: Tiny) -> None:
    """Switched on, off, and kept while the context changes its size."""
    with converse(tiny(), 600, **{**TALK, "options": TALK["options"][:3]}) as talk:
        say(talk, "a cat")
        assert snapshot(talk.cache).asked is None
        talk.set_policy(options=TALK["options"])
        say(talk, "the rat")
        asked = snapshot(talk.cache).asked
        assert asked is not None
        talk.set_budget(500)
        moved = snapshot(talk.cache).asked
        assert moved is not None and moved.queries is asked.queries
        say(talk, "there")
        check_budget(talk)
        talk.set_policy(policy="streaming-llm", options=())
        say(talk, "a hat")
        assert snapshot(talk.cache).asked is None
        first = finish(talk, talk.regenerate())
        assert finish(talk, talk.regenerate()) == first
        check_budget(talk)
