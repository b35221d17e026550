"""The budget holds: cells are counted by llama.cpp after every token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.generate import Generation
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict
from scope_cpp.policies.base import DecodePolicy, Step, View
from scope_cpp.policies.full import FullPrefill
from scope_cpp.policies.scope import Scope
from scope_cpp.policies.streaming_llm import StreamingLLM
from tests.conftest import Tiny
from tests.engine.drive import (
    GRANULARITIES,
    POLICIES,
    Int32,
    bounded,
    greedy,
    kept,
    make_cache,
    open_context,
    options,
    random_tokens,
)

N_PROMPT, N_OUTPUT, CAPACITY = 50, 310, 120
SINKS = 4


def check_counts(cache: BoundedCache) -> None:
    """Compare our numbers with llama.cpp's."""
    stats, used = cache.stats, kv_evict.n_used(cache.context.ptr)
    assert used == stats.cells_used <= stats.cells_peak <= cache.capacity
    assert stats.evicted == cache.n_past - used
    assert 0 <= stats.attention_loss < 1


def check_rows(cache: BoundedCache, rows: Int32) -> None:
    """Check what every head holds, given in ascending order."""
    assert rows.shape[2] == cache.stats.cells_used
    assert (np.diff(rows, axis=2) > 0).all()
    assert (rows[:, :, 0] >= 0).all() and (rows[:, :, -1] == cache.n_past - 1).all()
    labels = kv_evict.cells(cache.context.ptr, cache.seq)[0]
    assert labels[-1] == cache.n_past - 1
    if cache.whole_cells:
        assert (rows == labels).all()
    policy, n_output = cache.decode_policy, cache.n_past - cache.n_prompt
    if isinstance(policy, Scope):
        assert (rows[:, :, :N_PROMPT] == np.arange(N_PROMPT)).all()
        assert policy.beta2 is not None
        recent = min(policy.beta2, n_output)
    elif isinstance(policy, StreamingLLM):
        assert (rows[:, :, :SINKS] == np.arange(SINKS)).all()
        recent = rows.shape[2] - SINKS
    else:
        recent = min(policy.recent, cache.n_past)  # type: ignore[attr-defined]
    newest = np.arange(cache.n_past - recent, cache.n_past)
    assert (rows[:, :, rows.shape[2] - recent :] == newest).all()


@pytest.mark.parametrize("kv", ["f16", "q8_0"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("policy", POLICIES)
def test_never_more_cells_than_the_budget(
    tiny: Tiny, policy: str, granularity: str, kv: str
) -> None:
    fields = options(policy, granularity=granularity)
    with bounded(tiny(), N_PROMPT, N_OUTPUT, CAPACITY, kv, **fields) as cache:
        assert cache.bounded
        cache.prefill(random_tokens(N_PROMPT))
        peak = N_PROMPT
        for _ in greedy(cache, N_OUTPUT):
            check_counts(cache)
            rows = kept(cache)
            check_rows(cache, rows)
            peak = max(peak, cache.stats.cells_used)
        assert cache.stats.cells_peak == peak > CAPACITY - 10
        assert cache.stats.evicted >= N_PROMPT + N_OUTPUT - CAPACITY
        assert cache.stats.selections > 10
        alike = policy == "streaming-llm" or granularity == "cell"
        assert (rows == rows[0, 0]).all() == alike
        assert (cache.stats.attention_loss > 0) == (policy != "streaming-llm")


@pytest.mark.parametrize("policy", ["scope-adaptive", "scope-discontinuous", "scope-slide"])
def test_an_output_without_a_longest_length(tiny: Tiny, policy: str) -> None:
    fields = options(policy)
    with bounded(tiny(), N_PROMPT, None, CAPACITY, **fields) as cache:
        cache.prefill(random_tokens(N_PROMPT))
        for _ in greedy(cache, 400):
            check_counts(cache)
        check_rows(cache, kept(cache))
        assert cache.stats.cells_peak > CAPACITY - 10


@pytest.mark.parametrize("interval", [31, 32, 33, 64, 70])
def test_intervals_around_the_number_of_recorded_queries(tiny: Tiny, interval: int) -> None:
    """A loss is counted even where a selection finds all its queries folded already."""
    fields = {"policy": "scope-slide", "options": (f"interval={interval}",)}
    with bounded(tiny(), 20, 400, 120, **fields) as cache:
        cache.prefill(random_tokens(20))
        losses = []
        for _ in greedy(cache, 400):
            check_counts(cache)
            losses.append(cache.stats.attention_loss)
        assert cache.stats.selections > 3
        # the mean moved with every selection: none went without
        assert len(set(losses)) == cache.stats.selections + 1


def test_everything_fits(tiny: Tiny) -> None:
    with bounded(tiny(), N_PROMPT, 60, CAPACITY, policy="scope-slide") as cache:
        assert not cache.bounded
        cache.prefill(random_tokens(N_PROMPT))
        for _ in greedy(cache, 60):
            check_counts(cache)
        assert cache.stats.evicted == cache.stats.selections == 0
        assert (kv_evict.cells(cache.context.ptr, 0)[0] == np.arange(N_PROMPT + 60)).all()
        with pytest.raises(Exception, match="110 cells are in use"):
            cache.decode(3)
        check_counts(cache)


def test_a_context_has_no_more_cells_than_the_budget_needs(tiny: Tiny) -> None:
    with bounded(tiny(), N_PROMPT, 100_000, CAPACITY, policy="scope-slide") as cache:
        assert cache.context.n_cells == 256  # what llama.cpp rounds 120 up to


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_ten_thousand_tokens_in_512_cells(tiny: Tiny, granularity: str) -> None:
    shape = {"n_embd": 64, "n_head": 4, "head_dim": 32, "n_ff": 64, "n_ctx_train": 16384}
    n_output = 10_000 if granularity == "head" else 2_000
    settings = Settings(
        "scope-foresight",
        granularity=granularity,
        options=("interval=auto",),
        budget=512,
        n_threads=1,
        n_threads_batch=1,
    )
    with open_context(tiny(**shape), 512) as spare:
        model = spare.model
        generation = Generation(
            model,
            random_tokens(100),
            n_predict=n_output,
            settings=settings,
            sampling=SamplingParams(temp=0.8, seed=1, ignore_eos=True),
            warn=lambda line: None,
        )
        with generation:
            ptr = generation.context.ptr
            assert generation.context.n_cells == 512
            peak = n_tokens = 0
            for _ in generation:
                n_tokens += 1
                used = kv_evict.n_used(ptr)
                assert used == generation.cache.stats.cells_used
                assert np.isfinite(generation.context.logits()).all()
                peak = max(peak, used)
            assert n_tokens == n_output
            assert peak == 512
            rows = kept(generation.cache)
        assert (rows[:, :, :100] == np.arange(100)).all()
        assert rows.max() == 100 + n_output - 2  # the last token is not decoded
        assert generation.stats.evicted == 100 + n_output - 1 - rows.shape[2]


@dataclass(frozen=True)
class Stubborn(DecodePolicy):
    """Keeps the earliest rows and the newest, as many as the limit allows and `more`."""

    name: ClassVar[str] = "stubborn"

    more: int = 0
    newest: bool = True
    ragged: bool = False

    def capacity(self, n_prompt_cells: int, n_predict: int | None) -> int:
        return n_prompt_cells + 20

    def due(self, step: Step) -> bool:
        return False

    def select(self, view: View) -> npt.NDArray[np.bool_]:
        keep = np.zeros(view.pos.shape, np.bool_)
        keep[:, :, : view.limit + self.more - self.newest] = True
        keep[:, :, -1] |= self.newest
        keep[0, 0, 0] &= not self.ragged
        return keep


def test_a_policy_that_takes_all_it_can(tiny: Tiny) -> None:
    """One cell is left for the token to come, and no more."""
    with open_context(tiny(), 256) as context:
        cache = BoundedCache(context, 70, Stubborn(), FullPrefill())
        cache.prefill(random_tokens(N_PROMPT))
        for _ in greedy(cache, 100):
            check_counts(cache)
        assert cache.stats.cells_used == 70 and cache.stats.selections == 80
        assert (kept(cache) == [*range(68), 148, 149]).all()


@pytest.mark.parametrize(
    "policy", [Stubborn(more=1), Stubborn(newest=False), Stubborn(ragged=True)], ids=str
)
def test_a_policy_that_breaks_its_promises(tiny: Tiny, policy: Stubborn) -> None:
    with open_context(tiny(), 256) as context:
        cache = BoundedCache(context, 70, policy, FullPrefill())
        cache.prefill(random_tokens(N_PROMPT))
        for _ in greedy(cache, 20):
            check_counts(cache)
        with pytest.raises(ScopeError, match="the policy ke"):
            cache.decode(3)
        assert kv_evict.n_used(context.ptr) == 70 == cache.n_past
        assert (kept(cache) == np.arange(70)).all()


def test_a_budget_of_the_least_cells(tiny: Tiny) -> None:
    """One token of the output is all that the pool can hold beside the one to decode."""
    with open_context(tiny(), 256) as context:
        cache = make_cache(context, 30, 200, policy="scope-slide", budget=32)
        cache.prefill(random_tokens(30))
        for _ in greedy(cache, 100):
            check_counts(cache)
        assert kept(cache)[0, 0].tolist()[:30] == list(range(30))


@pytest.mark.parametrize("policy", POLICIES)
def test_no_row_is_kept_in_mind_where_everything_fits(tiny: Tiny, policy: str) -> None:
    with open_context(tiny(), 128) as context:
        cache = make_cache(context, 20, 30, budget=128, **options(policy))
        assert not cache.bounded
        cache.prefill(random_tokens(20))
        for _ in greedy(cache, 5):
            pass
        assert cache.ledger.labels.size == cache.ledger.scores.size == 0


@pytest.mark.parametrize("what", ["_scores", "_rows", "_likeness", "_ahead", "_apply"])
@pytest.mark.parametrize("policy", ["scope-foresight", "scope-retrieval", "h2o"])
def test_memory_that_is_not_there_for_a_selection(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, policy: str, what: str
) -> None:
    """Nothing was chosen and nothing lost: asked again, the same rows stay as otherwise."""
    real, refused = getattr(kv_evict, what), []

    def refuse_some(*args: object) -> int:
        # of `apply` only what moves something: it may be refused before anything is changed
        if len(refused) < 3 and chosen % 2 and (what != "_apply" or args[4]):
            refused.append(what)
            return -25
        return int(real(*args))

    kept_of = {}
    for fails in (False, True):
        monkeypatch.setattr(kv_evict, what, refuse_some if fails else real)
        chosen = 0
        with bounded(tiny(), 40, 100, 70, policy=policy) as cache:
            cache.prefill(random_tokens(40))
            logits = []
            for token in random_tokens(100, seed=9):
                chosen += 1
                try:
                    cache.decode(token)
                except kv_evict.NativeError as err:
                    assert "out of memory" in str(err)
                    chosen += 1
                    cache.decode(token)
                logits.append(cache.context.logits())
            kept_of[fails] = kept(cache), np.stack(logits)
    for expected, found in zip(kept_of[False], kept_of[True], strict=True):
        assert np.array_equal(found, expected)
