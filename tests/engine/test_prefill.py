"""Prompts that are larger than the capacity, and what the prompt's queries leave behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.context import Context
from scope_cpp.engine.generate import Generation
from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.engine.drive import (
    GRANULARITIES,
    POLICIES,
    Spy,
    bounded,
    error,
    greedy,
    kept,
    make_cache,
    open_context,
    random_tokens,
)
from tests.engine.mirror import Mirror

N_PROMPT, CAPACITY = 300, 128

# as in test_oracle
LOGITS, SCORES = 3e-3, 2e-3

# options and the number of last tokens that they keep
PREFILLS = {
    "h2o": (("alpha1=60", "alpha2=10"), 10),
    "snapkv": (("alpha1=60", "prefill.window=12"), 12),
}
N_KEPT = {"h2o": 70, "snapkv": 72}

Hook = Callable[[Sequence[int]], None]


def around_decode(
    monkeypatch: pytest.MonkeyPatch, before: Hook | None = None, after: Hook | None = None
) -> None:
    """Call hooks with the tokens of every batch."""
    decode = Context.decode

    def hooked(self: Context, tokens: Sequence[int], *args: Any, **kwargs: Any) -> None:
        if before:
            before(tokens)
        decode(self, tokens, *args, **kwargs)
        if after:
            after(tokens)

    monkeypatch.setattr(Context, "decode", hooked)


@pytest.mark.parametrize("kv", ["f16", "q8_0"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("policy", ["scope-slide", "h2o", "streaming-llm"])
@pytest.mark.parametrize("prefill", PREFILLS)
def test_the_budget_holds_while_the_prompt_is_read(
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    prefill: str,
    policy: str,
    granularity: str,
    kv: str,
) -> None:
    chosen, n_last = PREFILLS[prefill]
    fields = {"policy": policy, "prefill": prefill, "options": chosen, "granularity": granularity}
    with bounded(tiny(), N_PROMPT, 100, CAPACITY, kv, **fields) as cache:
        used = []
        around_decode(monkeypatch, after=lambda _: used.append(kv_evict.n_used(cache.context.ptr)))
        cache.prefill(random_tokens(N_PROMPT))
        assert len(used) > 3
        assert max(used) == cache.stats.cells_peak == cache.capacity <= CAPACITY
        assert kv_evict.n_used(cache.context.ptr) == cache.n_prompt_cells == N_KEPT[prefill]
        assert cache.stats.evicted == N_PROMPT - cache.n_prompt_cells
        rows = kept(cache)
        assert (rows[:, :, -n_last:] == np.arange(N_PROMPT - n_last, N_PROMPT)).all()
        assert (rows == rows[0, 0]).all() == (granularity == "cell")
        for _ in greedy(cache, 100):
            assert kv_evict.n_used(cache.context.ptr) <= cache.capacity
        if policy == "scope-slide":
            assert (kept(cache)[:, :, : N_KEPT[prefill]] == rows).all()


def mirrored(cache: BoundedCache, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make the mirror read what the cache reads, batch by batch; the errors of the logits."""
    errors: list[float] = []

    def hold(_: Sequence[int]) -> None:
        if mirror.n_past:
            mirror.hold(cache.positions())

    def read(tokens: Sequence[int]) -> None:
        errors.append(error(cache.context.logits(), mirror.decode(tokens)))

    around_decode(monkeypatch, hold, read)
    return errors


def score_error(spy: Spy, mirror: Mirror, weights: Any) -> float:
    """Error of the scores that the spy was shown last, relative to the largest."""
    view = spy.views[-1]
    expected = mirror.pooled(weights, view.pos.shape[:2] == (1, 1))
    off = np.take_along_axis(expected, view.pos, axis=2) - view.scores
    return float(np.abs(off).max() / expected.max())


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("n_prompt", [300, 311])
def test_summed_scores_of_a_prompt_read_in_chunks(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, granularity: str, n_prompt: int
) -> None:
    mirror = Mirror(tiny(), "f16", n_prompt)
    fields = {"prefill": "h2o", "options": PREFILLS["h2o"][0], "granularity": granularity}
    with bounded(tiny(), n_prompt, 100, CAPACITY, **fields) as cache:
        errors = mirrored(cache, mirror, monkeypatch)
        spy = cache.prefill_policy = Spy(cache.prefill_policy)
        cache.prefill(random_tokens(n_prompt))
        assert len(spy.views) > 3
        assert score_error(spy, mirror, np.sum(mirror.queries, axis=0)) < SCORES
        assert max(errors) < LOGITS
        mirror.hold(cache.positions())  # as many rows for every head, and all of them there


def test_scores_of_the_last_window(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Mirror(tiny(), "f16", N_PROMPT)
    fields = {"prefill": "snapkv", "options": PREFILLS["snapkv"][0]}
    with bounded(tiny(), N_PROMPT, 100, 2 * N_PROMPT // 3, **fields) as cache:
        errors = mirrored(cache, mirror, monkeypatch)
        spy = cache.prefill_policy = Spy(cache.prefill_policy)
        cache.prefill(random_tokens(N_PROMPT))
        # no row was given up between the window's queries and the last selection
        window = np.sum(mirror.queries[-12:], axis=0)
        assert score_error(spy, mirror, window) < 2 * SCORES
        assert max(errors) < LOGITS


@pytest.mark.parametrize("n_prompt", [30, 64, 65, 150, 217])
@pytest.mark.parametrize("spare", [5, 150])
def test_h2o_sums_over_the_queries_of_the_prompt(tiny: Tiny, n_prompt: int, spare: int) -> None:
    """Whatever the chunks in which the prompt is read, which depend on the budget."""
    n_more = spare + 1
    tokens = random_tokens(n_prompt + n_more)
    mirror = Mirror(tiny(), "f16", len(tokens))
    with bounded(tiny(), n_prompt, 400, n_prompt + spare, policy="h2o") as cache:
        spy = cache.decode_policy = Spy(cache.decode_policy)
        cache.prefill(tokens[:n_prompt])
        mirror.decode(tokens[:n_prompt])
        for token in tokens[n_prompt:-1]:
            cache.decode(token)
            mirror.decode([token])
        assert not spy.views
        cache.decode(tokens[-1])
        assert len(spy.views) == 1
        assert score_error(spy, mirror, np.sum(mirror.queries, axis=0)) < SCORES


def test_the_prompt_is_kept_whole_if_it_is_no_longer_than_its_share(tiny: Tiny) -> None:
    fields = {"prefill": "h2o", "options": PREFILLS["h2o"][0]}
    with bounded(tiny(), 70, 200, CAPACITY, **fields) as cache:
        cache.prefill(random_tokens(70))
        assert cache.n_prompt_cells == 70 and cache.stats.selections == 0


def test_without_a_prefill_policy_a_prompt_must_fit(tiny: Tiny) -> None:
    with Model.load(tiny()) as model, pytest.raises(UsageError) as caught:
        Generation(model, random_tokens(N_PROMPT), n_predict=50, settings=Settings(budget=CAPACITY))
    message = str(caught.value)
    assert "\n" not in message
    assert "--budget" in message and "--prefill" in message


@pytest.mark.parametrize("n_predict", [2, 50, None])
@pytest.mark.parametrize("policy", [None, *POLICIES])
def test_the_number_that_the_message_names_has_room_for_the_output(
    tiny: Tiny, policy: str | None, n_predict: int | None
) -> None:
    chosen = POLICIES.get(policy or "", ())

    def make(context: Context, budget: int) -> BoundedCache:
        fields = {"policy": policy, "options": chosen, "budget": budget}
        return make_cache(context, N_PROMPT, n_predict, **fields)

    with (
        open_context(tiny(), 512) as context,
        pytest.raises(UsageError, match="--budget") as caught,
    ):
        make(context, CAPACITY)
    told = re.search(r"give --budget (\d+) or more(?:, such as (\d+))?", str(caught.value))
    assert told is not None
    named = [int(number) for number in told.groups() if number]
    for budget in named:
        with open_context(tiny(), 512) as context:
            cache = make(context, budget)
            cache.prefill(random_tokens(N_PROMPT))
            for _ in greedy(cache, n_predict or 50):
                assert kv_evict.n_used(context.ptr) <= budget
    assert named[-1] >= N_PROMPT + min(n_predict or 1024, 1024)


@pytest.mark.parametrize("n_predict", [100, 1000])
def test_a_prompt_larger_than_the_capacity_changes_nothing(tiny: Tiny, n_predict: int) -> None:
    """Refused by the cache itself, for callers that did not ask for the sizes."""
    with open_context(tiny(), 512) as context:
        cache = make_cache(context, 50, n_predict, policy="scope-slide", budget=200)
        with pytest.raises(ScopeError, match="needs 250 cells"):
            cache.prefill(random_tokens(250))
        assert kv_evict.n_used(context.ptr) == cache.n_past == cache.n_prompt == 0
        cache.prefill(random_tokens(50))
        assert kv_evict.n_used(context.ptr) == 50
