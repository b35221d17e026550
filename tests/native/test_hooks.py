"""The hooks change nothing of what llama.cpp computes, and can be put on and off at any time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.native.harness import Session, random_tokens
from tests.native.heads import NO_CELLS
from tests.native.stock_logits import JOBS, run


def score_and_move(session: Session) -> None:
    """Use everything that must leave decoding as it is."""
    pos, ids, _ = kv_evict.cells(session.ctx, 0)
    assert kv_evict.n_queries(session.ctx, 0) == 16
    kv_evict.scores(session.ctx, 0, 16, ids)
    shape = kv_evict.n_layer(session.ctx), kv_evict.n_head_kv(session.ctx), ids.size
    same = np.ascontiguousarray(np.broadcast_to(ids, shape))
    kv_evict.apply(session.ctx, 0, same, same, NO_CELLS)
    kv_evict.state_get(session.ctx, 0)


@pytest.mark.parametrize("job", JOBS)
def test_logits_are_those_of_stock(tiny: Tiny, stock_logits: Any, job: str) -> None:
    with Session(tiny(), **JOBS[job]) as session:
        assert np.array_equal(run(session), stock_logits[job])


@pytest.mark.parametrize("job", JOBS)
def test_hooks_leave_the_logits_alone(tiny: Tiny, job: str) -> None:
    with Session(tiny(), **JOBS[job]) as session:
        off = run(session)
    with Session(tiny(), **JOBS[job]) as session:
        kv_evict.init(session.ctx, 16)
        assert np.array_equal(run(session), off)
    with Session(tiny(), **JOBS[job]) as session:
        kv_evict.init(session.ctx, 16)
        assert np.array_equal(run(session, lambda: score_and_move(session)), off)


@pytest.mark.parametrize("flash", [True, False])
def test_init_and_stop_in_the_middle(tiny: Tiny, flash: bool) -> None:
    with Session(tiny(), flash=flash) as session:
        expected = run(session)
    windows = iter([16, 3, 0, 1, 0, 40] * 5)
    with Session(tiny(), flash=flash) as session:
        logits = run(session, lambda: kv_evict.init(session.ctx, next(windows)))
    assert np.array_equal(logits, expected)


def test_another_window_starts_recording_anew(tiny: Tiny) -> None:
    tokens = random_tokens(60)
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(tokens[:40], 0)
        assert kv_evict.n_queries(session.ctx, 0) == 4
        kv_evict.init(session.ctx, 12)
        assert kv_evict.n_queries(session.ctx, 0) == 0
        session.decode(tokens[40:45], 40)
        assert kv_evict.n_queries(session.ctx, 0) == 5
        session.decode(tokens[45:], 45)
        assert kv_evict.n_queries(session.ctx, 0) == 12


def test_stopped_hooks_serve_nothing(tiny: Tiny) -> None:
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(10), 0)
        kv_evict.init(session.ctx, 0)
        with pytest.raises(kv_evict.NativeError, match="init was not called"):
            kv_evict.n_queries(session.ctx, 0)
        assert kv_evict.n_used(session.ctx) == 10


@pytest.mark.parametrize("flash", [True, False])
def test_graphs_are_reused_as_without_hooks(tiny: Tiny, flash: bool) -> None:
    tokens = random_tokens(120)

    def n_reused(window: int) -> int:
        with Session(tiny(), flash=flash) as session:
            kv_evict.init(session.ctx, window)
            session.decode(tokens[:20], 0)
            for pos in range(20, 120):
                session.decode([tokens[pos]], pos)
                if window:
                    kv_evict.scores(session.ctx, 0, 1, kv_evict.cells(session.ctx, 0)[1])
            return session.n_reused

    assert n_reused(16) == n_reused(0) >= 98
