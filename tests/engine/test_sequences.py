"""Two sequences in one context: each as if it were alone, and cells that both have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.context import Context
from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp
from tests.conftest import Tiny
from tests.engine.drive import (
    F32,
    GRANULARITIES,
    POLICIES,
    Int32,
    kept,
    make_cache,
    open_context,
    options,
    random_tokens,
)

N_OUTPUT = 150

# sums over cells in another order round differently, which can turn a choice: least so in f32
EXACT: dict[str, Any] = {"kv": "f32", "flash_attn": "off"}

# prompt, budget
FIRST, SECOND = (random_tokens(60, seed=1), 110), (random_tokens(45, seed=4), 90)


def start(context: Context, which: tuple[list[int], int], seq: int, **fields: Any) -> BoundedCache:
    """Make the cache of one sequence and read its prompt."""
    prompt, budget = which
    cache = make_cache(context, len(prompt), N_OUTPUT, seq=seq, budget=budget, **fields)
    cache.prefill(prompt)
    return cache


class Writer:
    """Writes greedily; the tokens and what was held after each."""

    def __init__(self, cache: BoundedCache) -> None:
        self.cache = cache
        self.tokens = [int(cache.context.logits().argmax())]
        self.rows: list[Int32] = []

    def step(self) -> None:
        self.cache.decode(self.tokens[-1])
        self.tokens.append(int(self.cache.context.logits().argmax()))
        self.rows.append(kept(self.cache))

    def same_as(self, other: Writer) -> bool:
        rows = zip(self.rows, other.rows, strict=True)
        return self.tokens == other.tokens and all(np.array_equal(a, b) for a, b in rows)


def alone(path: Any, which: tuple[list[int], int], **fields: Any) -> Writer:
    with open_context(path, 256, **EXACT) as context:
        writer = Writer(start(context, which, 0, **fields))
        for _ in range(N_OUTPUT):
            writer.step()
    return writer


def seq_cells(context: Context, seq: int) -> tuple[list[int], list[int]]:
    """Positions and cells of a sequence."""
    labels, ids, _ = kv_evict.cells(context.ptr, seq)
    return labels.tolist(), ids.tolist()


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("policy", POLICIES)
def test_each_as_if_alone(tiny: Tiny, policy: str, granularity: str) -> None:
    fields = options(policy, granularity=granularity)
    with open_context(tiny(), 256, n_seq_max=2, **EXACT) as context:
        first = Writer(start(context, FIRST, 0, **fields))
        second = Writer(start(context, SECOND, 1, **fields))
        for _ in range(N_OUTPUT):
            first.step()
            second.step()
            used = [writer.cache.stats.cells_used for writer in (first, second)]
            assert kv_evict.n_used(context.ptr) == sum(used)
        assert first.cache.stats.evicted > 50 and second.cache.stats.evicted > 50
    assert first.same_as(alone(tiny(), FIRST, **fields))
    assert second.same_as(alone(tiny(), SECOND, **fields))


def test_policies_that_record_different_numbers_of_queries(tiny: Tiny) -> None:
    streaming, slide = options("streaming-llm"), options("scope-slide")
    h2o = options("h2o")
    with open_context(tiny(), 256, n_seq_max=2, **EXACT) as context:
        first = make_cache(context, 60, N_OUTPUT, budget=110, **slide)
        second = make_cache(context, 45, N_OUTPUT, seq=1, budget=90, **h2o)
        first.prefill(FIRST[0])
        one = Writer(first)
        second.prefill(SECOND[0])
        two = Writer(second)
        for step in range(N_OUTPUT):
            one.step()
            if step == 70:  # a third one comes later and records fewer queries
                assert make_cache(context, 10, None, seq=1, budget=90, **streaming).bounded
            two.step()
    assert one.same_as(alone(tiny(), FIRST, **slide))
    assert two.same_as(alone(tiny(), SECOND, **h2o))


# a common prompt


def share(context: Context, source: int, target: int) -> None:
    llama_cpp.llama_memory_seq_cp(context.memory, source, target, -1, -1)


def next_logits(context: Context, token: int, pos: int, seq: int) -> F32:
    """Logits after one more token, which is taken back."""
    context.decode([token], pos, seq)
    logits = context.logits()
    assert llama_cpp.llama_memory_seq_rm(context.memory, seq, pos, -1)
    return logits


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("policy", POLICIES)
def test_eviction_never_touches_what_another_sequence_holds(
    tiny: Tiny, policy: str, granularity: str
) -> None:
    prompt, budget = FIRST
    own = random_tokens(9, seed=3)
    with open_context(tiny(), 256, n_seq_max=2) as context:
        fields = options(policy, granularity=granularity)
        cache = start(context, FIRST, 0, **fields)
        share(context, 0, 1)
        context.decode(own, len(prompt), seq=1)
        before = next_logits(context, 99, len(prompt) + len(own), seq=1)
        cells = seq_cells(context, 1)
        for token in random_tokens(N_OUTPUT, seed=4):
            cache.decode(token)
            assert len(seq_cells(context, 0)[0]) == cache.stats.cells_used <= budget
            assert kv_evict.n_used(context.ptr) == cache.stats.cells_used + len(own)
        assert cache.stats.evicted > 50
        assert (kept(cache)[:, :, : len(prompt)] == np.arange(len(prompt))).all()
        assert seq_cells(context, 1) == cells
        after = next_logits(context, 99, len(prompt) + len(own), seq=1)
    assert np.array_equal(before, after)


def test_two_that_share_a_prompt_write_as_if_alone(tiny: Tiny) -> None:
    """SCOPE keeps the prompt, so sharing it changes nothing for either."""
    slide = options("scope-slide")
    prompt, budget = FIRST
    with open_context(tiny(), 256, n_seq_max=2, **EXACT) as context:
        first = Writer(start(context, FIRST, 0, **slide))
        share(context, 0, 1)
        cache = make_cache(context, len(prompt), N_OUTPUT, seq=1, budget=budget, **slide)
        cache.n_past = cache.n_prompt = cache.n_prompt_cells = len(prompt)
        cache.stats.cells_used = len(prompt)
        second = Writer(cache)
        for _ in range(N_OUTPUT):
            first.step()
            second.step()
            shared = 2 * cache.stats.cells_used - len(prompt)
            assert kv_evict.n_used(context.ptr) == shared
        assert first.cache.stats.evicted > 50 and cache.stats.evicted > 50
    expected = alone(tiny(), FIRST, **slide)
    assert first.same_as(expected) and second.same_as(expected)


def test_a_budget_that_shared_cells_use_up(tiny: Tiny) -> None:
    """There is nothing that may be evicted: an error, and the other sequence is untouched."""
    prompt = FIRST[0]
    with open_context(tiny(), 256, n_seq_max=2, **EXACT) as context:
        cache = make_cache(context, len(prompt), 100, policy="h2o", budget=len(prompt) + 1)
        cache.prefill(prompt)
        cache.decode(3)
        share(context, 0, 1)
        with pytest.raises(Exception, match="shared"):
            cache.decode(4)
        assert seq_cells(context, 1)[0] == list(range(len(prompt) + 1))
