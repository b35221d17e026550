"""A decode that is aborted leaves nothing behind; scores and moves are not aborted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp
from tests.conftest import Tiny
from tests.native.harness import Session, random_tokens
from tests.native.heads import NO_CELLS

# llama.cpp asks between the nodes of a CPU's graph only: that of a device runs to its end
on_host = pytest.mark.host_only("devices are not asked to abort")

N = 60
TOKENS = random_tokens(N + 40)


@contextmanager
def aborting(session: Session, n_nodes: int) -> Iterator[list[int]]:
    """Abort what is computed after `n_nodes` more nodes; yields how often it was asked."""
    asked = [0]

    def callback(_: int | None) -> bool:
        asked[0] += 1
        return asked[0] > n_nodes

    native = llama_cpp.ggml_abort_callback(callback)
    llama_cpp.llama_set_abort_callback(session.ctx, native, None)
    yield asked
    llama_cpp.llama_set_abort_callback(session.ctx, llama_cpp.ggml_abort_callback(), None)


def decode_aborted(session: Session, tokens: list[int], pos: int) -> None:
    with pytest.raises(AssertionError, match="llama_decode returned 2"):
        session.decode(tokens, pos)


@on_host
@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("n_nodes", [0, 10, 30])
@pytest.mark.parametrize("n_tokens", [1, 12])
def test_as_if_it_had_never_been(tiny: Tiny, flash: bool, n_nodes: int, n_tokens: int) -> None:
    """The next tokens are decoded and scored bit by bit as without the one that was aborted."""
    results = []
    for abort in (False, True):
        with Session(tiny(), flash=flash) as session:
            kv_evict.init(session.ctx, 8)
            session.decode(TOKENS[:N], 0)
            session.decode_each(TOKENS[N : N + 3], N)
            before = kv_evict.cells(session.ctx, 0)
            if abort:
                with aborting(session, n_nodes) as asked:
                    decode_aborted(session, TOKENS[20 : 20 + n_tokens], N + 3)
                assert asked[0] == n_nodes + 1
            for old, new in zip(before, kv_evict.cells(session.ctx, 0), strict=True):
                assert np.array_equal(old, new)
            assert session.last_pos() == N + 2
            logits = session.decode_each(TOKENS[N + 3 : N + 20], N + 3)
            ids = kv_evict.cells(session.ctx, 0)[1]
            results.append((logits, kv_evict.scores(session.ctx, 0, 8, ids)))
    for got, expected in zip(*results, strict=True):
        assert np.array_equal(got, expected)


@on_host
def test_a_flag_aborts(tiny: Tiny) -> None:
    """Every decode, as long as it is set; what was there stays."""
    flag = np.zeros(1, np.int32)
    with Session(tiny()) as session:
        kv_evict.abort_on(session.ctx, flag)
        session.decode(TOKENS[:N], 0)
        for _ in range(2):
            flag[0] = 1
            decode_aborted(session, TOKENS[N : N + 3], N)
            assert session.last_pos() == N - 1
        flag[0] = 0
        session.decode(TOKENS[N : N + 3], N)
        assert session.last_pos() == N + 2


@on_host
@pytest.mark.parametrize("flash", [True, False])
def test_scores_after_an_aborted_decode(tiny: Tiny, flash: bool) -> None:
    """What was recorded before it still serves, but for the rows that it has taken."""
    with Session(tiny(), flash=flash) as session:
        kv_evict.init(session.ctx, 8)
        session.decode(TOKENS[:N], 0)
        ids = kv_evict.cells(session.ctx, 0)[1]
        expected = kv_evict.scores(session.ctx, 0, 5, ids)
        with aborting(session, 30):
            decode_aborted(session, TOKENS[N : N + 3], N)
        assert kv_evict.n_queries(session.ctx, 0) == 5
        assert np.abs(kv_evict.scores(session.ctx, 0, 5, ids) - expected).max() < 1e-5


@on_host
@pytest.mark.parametrize("flash", [True, False])
def test_scores_and_moves_are_not_aborted(tiny: Tiny, flash: bool) -> None:
    src = np.full((2, 2, 1), 5, np.int32)
    dst = np.full((2, 2, 1), 9, np.int32)
    with Session(tiny(), flash=flash) as session:
        kv_evict.init(session.ctx, 8)
        session.decode(TOKENS[:N], 0)
        ids = kv_evict.cells(session.ctx, 0)[1]
        state = kv_evict.state_get(session.ctx, 0)
        results = []
        for abort in (False, True):
            kv_evict.state_set(session.ctx, 0, state)
            with aborting(session, 0 if abort else 10**6) as asked:
                scores = kv_evict.scores(session.ctx, 0, 8, ids)
                kv_evict.apply(session.ctx, 0, src, dst, NO_CELLS)
                assert asked[0] == 0
                results.append((scores.tobytes(), kv_evict.state_get(session.ctx, 0)))
                if abort:  # and the callback is back
                    decode_aborted(session, TOKENS[:1], N)
        assert results[0] == results[1]
