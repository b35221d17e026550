"""Bad arguments are refused before anything has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.native.harness import Session, random_tokens
from tests.native.heads import NO_CELLS, no_moves

N = 30
NOT_INIT, ARGUMENT = -20, -21
INT32_MAX = 2**31 - 1


@pytest.fixture
def session(tiny: Tiny) -> Iterator[Session]:
    with Session(tiny(), n_seq=2) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        yield session


def check_refused(
    session: Session, call: Callable[[], object], status: int = ARGUMENT, seq: int = 0
) -> None:
    """Check the status, and that neither the cells nor the queries have changed."""
    before = kv_evict.state_get(session.ctx, seq)
    with pytest.raises(kv_evict.NativeError) as caught:
        call()
    assert caught.value.status == status
    assert kv_evict.state_get(session.ctx, seq) == before


def one_head(session: Session, pairs: list[tuple[int, int]], head: int) -> tuple[Any, Any]:
    """Give head number `head` these pairs of source and target; the others move nothing."""
    moves = np.full((2, 4, len(pairs)), N - 1, np.int32)
    moves[:, head] = np.array(pairs, np.int32).T
    src, dst = moves.reshape(2, 2, 2, -1)
    return np.ascontiguousarray(src), np.ascontiguousarray(dst)


BAD_MOVES = {
    "source below 0": [(-1, 3)],
    "target below 0": [(3, -1)],
    "source beyond the cells": [(256, 3)],
    "target beyond the cells": [(3, 256)],
    "largest source": [(INT32_MAX, 3)],
    "largest target": [(3, INT32_MAX)],
    "empty source": [(N, 3)],
    "empty target": [(3, N)],
    "target twice": [(5, 3), (6, 3)],
    "target twice, from one source": [(5, 3), (5, 3)],
    "nothing onto a target": [(5, 3), (3, 3)],
    "nothing onto a target, first": [(3, 3), (5, 3)],
}


@pytest.mark.parametrize("head", [0, 1, 3])
@pytest.mark.parametrize("name", BAD_MOVES)
def test_moves(session: Session, name: str, head: int) -> None:
    src, dst = one_head(session, [(10, 11), *BAD_MOVES[name], (12, 13)], head)
    remove = np.array([20], np.int32)
    check_refused(session, lambda: kv_evict.apply(session.ctx, 0, src, dst, remove))
    assert kv_evict.n_used(session.ctx) == N


@pytest.mark.parametrize("head", [0, 1, 2])
def test_a_move_that_another_head_makes_too(session: Session, head: int) -> None:
    """Doing nothing to the target of a move is refused whatever the heads after it do."""
    src, dst = one_head(session, [(5, 3), (3, 3)], head)
    src.reshape(4, 2)[head + 1 :] = [5, N - 1]
    dst.reshape(4, 2)[head + 1 :] = [3, N - 1]
    check_refused(session, lambda: kv_evict.apply(session.ctx, 0, src, dst, NO_CELLS))


@pytest.mark.parametrize(
    "cells", [[-1], [256], [N], [3, 3], [3, 4, INT32_MAX], [-(2**31)]], ids=str
)
def test_cells_to_remove(session: Session, cells: list[int]) -> None:
    src, dst = one_head(session, [(10, 11)], 0)
    rm = np.array(cells, np.int32)
    check_refused(session, lambda: kv_evict.apply(session.ctx, 0, src, dst, rm))
    assert kv_evict.n_used(session.ctx) == N


def test_negative_counts(session: Session) -> None:
    none = np.zeros(1, np.int32)
    address = none.ctypes.data

    def raw(n_move: int, n_rm: int) -> None:
        status = kv_evict._apply(session.ctx, 0, address, address, n_move, address, n_rm)
        kv_evict._check("eviction", status)

    check_refused(session, lambda: raw(-1, 0))
    check_refused(session, lambda: raw(0, -1))
    out = np.zeros(8, np.float32)

    def raw_scores(n_query: int, n_cells: int) -> None:
        status = kv_evict._scores(session.ctx, 0, n_query, address, n_cells, False, out.ctypes.data)
        kv_evict._check("scores", status)

    check_refused(session, lambda: raw_scores(1, -1))
    check_refused(session, lambda: raw_scores(0, 1))
    check_refused(session, lambda: raw_scores(-1, 1))
    assert (out == 0).all()
    check_refused(session, lambda: kv_evict.init(session.ctx, -1))
    check_refused(session, lambda: kv_evict.init(session.ctx, 4, -1))


# 4 lists of 2**29 moves come to 2**31: more than 32 bits hold
@pytest.mark.parametrize("n", [-1, 257, 2**29, INT32_MAX, -(2**31)])
def test_counts_beyond_the_cells(session: Session, n: int) -> None:
    """Refused before anything is read: the arrays hold one number."""
    one, out = np.zeros(1, np.int32), np.zeros(1, np.float32)
    ctx, number, result = session.ctx, one.ctypes.data, out.ctypes.data
    calls: list[Callable[[], int]] = [
        lambda: kv_evict._apply(ctx, 0, number, number, n, number, 0),
        lambda: kv_evict._apply(ctx, 0, number, number, 0, number, n),
        lambda: kv_evict._scores(ctx, 0, 1, number, n, False, result),
        lambda: kv_evict._rows(ctx, 0, False, number, n, result),
        lambda: kv_evict._likeness(ctx, 0, number, n, 0, None, 0.5, result),
        lambda: kv_evict._likeness(ctx, 0, number, 1, n, None, 0.5, result),
        lambda: kv_evict._set_dead(ctx, 0, number, n, number),
        lambda: kv_evict._get_dead(ctx, 0, number, n, number),
    ]
    for call in calls:
        check_refused(session, lambda call=call: kv_evict._check("call", call()))  # type: ignore[misc]
    assert one[0] == out[0] == 0


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_weights_of_values(session: Session, weight: float) -> None:
    ids = np.arange(3, dtype=np.int32)
    check_refused(session, lambda: kv_evict.likeness(session.ctx, 0, ids, 1, value_weight=weight))


@pytest.mark.parametrize("pos", [-1, -(2**31)])
def test_positions_to_turn_queries_to(session: Session, pos: int) -> None:
    check_refused(session, lambda: kv_evict.queries(session.ctx, 0, 1, pos))


@pytest.mark.parametrize("cell", [-1, N, 256, INT32_MAX])
@pytest.mark.parametrize("call", ["rows", "values", "likeness", "set_dead", "get_dead"])
def test_cells_to_look_at(session: Session, call: str, cell: int) -> None:
    ids = np.array([3, cell], np.int32)
    calls: dict[str, Callable[[], object]] = {
        "rows": lambda: kv_evict.rows(session.ctx, 0, ids),
        "values": lambda: kv_evict.rows(session.ctx, 0, ids, values=True),
        "likeness": lambda: kv_evict.likeness(session.ctx, 0, ids, 1, value_weight=1),
        "set_dead": lambda: kv_evict.set_dead(session.ctx, 0, ids, np.zeros((2, 2), np.bool_)),
        "get_dead": lambda: kv_evict.get_dead(session.ctx, 0, ids),
    }
    check_refused(session, calls[call])


@pytest.mark.parametrize("cell", [-1, 256, INT32_MAX])
def test_cells_to_score(session: Session, cell: int) -> None:
    ids = np.array([3, cell], np.int32)
    check_refused(session, lambda: kv_evict.scores(session.ctx, 0, 1, ids))


def test_a_window_whose_size_would_overflow(session: Session) -> None:
    for window in (INT32_MAX, 2**30):
        check_refused(session, partial(kv_evict.init, session.ctx, window))
    assert kv_evict.n_queries(session.ctx, 0) == 4


CALLS: dict[str, Callable[[Session, int], object]] = {
    "bind": lambda s, seq: kv_evict.bind(s.ctx, seq),
    "n_queries": lambda s, seq: kv_evict.n_queries(s.ctx, seq),
    "scores": lambda s, seq: kv_evict.scores(s.ctx, seq, 1, NO_CELLS),
    "apply": lambda s, seq: kv_evict.apply(
        s.ctx, seq, no_moves(s.ctx), no_moves(s.ctx), np.array([3], np.int32)
    ),
    "state_get": lambda s, seq: kv_evict.state_get(s.ctx, seq),
    "state_set": lambda s, seq: kv_evict.state_set(s.ctx, seq, bytes(100)),
}


@pytest.mark.parametrize("seq", [-1, 2, 1000, INT32_MAX, -(2**31)])
@pytest.mark.parametrize("call", CALLS)
def test_sequences(session: Session, call: str, seq: int) -> None:
    check_refused(session, lambda: CALLS[call](session, seq))


@pytest.mark.parametrize("seq", [-1, 2, 1000, INT32_MAX])
def test_sequences_that_are_not_there_have_nothing(session: Session, seq: int) -> None:
    before = kv_evict.state_get(session.ctx, 0)
    assert all(array.size == 0 for array in kv_evict.cells(session.ctx, seq))
    kv_evict.forget(session.ctx, seq)
    kv_evict.release(session.ctx, seq)
    assert kv_evict.state_get(session.ctx, 0) == before


@pytest.mark.parametrize("call", CALLS)
def test_before_init(tiny: Tiny, call: str) -> None:
    with Session(tiny()) as session:
        session.decode(random_tokens(N), 0)
        with pytest.raises(kv_evict.NativeError) as caught:
            CALLS[call](session, 0)
        assert caught.value.status == NOT_INIT
        assert kv_evict.n_used(session.ctx) == N
        kv_evict.forget(session.ctx, 0)
        kv_evict.release(session.ctx, 0)


def test_a_buffer_too_small_for_the_state(session: Session) -> None:
    size = kv_evict._state_size(session.ctx, 0)
    buffer = np.full(size, 7, np.uint8)
    assert kv_evict._state_get(session.ctx, 0, buffer.ctypes.data, size - 1) == ARGUMENT
    assert (buffer == 7).all()


def test_an_array_shorter_than_the_cells(session: Session) -> None:
    pos, ids = np.full((2, 20), 99, np.int32)
    total = kv_evict._cells(session.ctx, 0, pos.ctypes.data, ids.ctypes.data, None, 10)
    assert total == N
    assert pos[:10].tolist() == ids[:10].tolist() == list(range(10))
    assert (pos[10:] == 99).all()


def test_every_status_has_words() -> None:
    statuses = [0, *range(-1, -8, -1), *range(-9, -14, -1), *range(-20, -28, -1)]
    words = {kv_evict.strerror(status) for status in statuses}
    assert len(words) == len(statuses)
    assert "unknown status" not in words
    assert kv_evict.strerror(-8) == kv_evict.strerror(1) == "unknown status"
