"""Sequences that share cells in one unified cache: none can spoil another one's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.native import kv_evict
from scope_cpp.reference.numpy_llama import NumpyLlama
from tests.conftest import Tiny
from tests.native.harness import Session, error, random_tokens
from tests.native.heads import NO_CELLS, Rows, no_moves, random_keep, remove_cells
from tests.native.state_bytes import HEADER, parse

N = 40  # tokens that the sequences share
CACHES: list[dict[str, Any]] = [{"kv": "f16"}, {"kv": "q8_0"}, {"kv": "f16", "flash": False}]

TEXT = random_tokens(N)
OWN = {0: random_tokens(30, 11), 1: random_tokens(30, 12)}  # what each goes on with


def fork(session: Session) -> None:
    """Decode a text as sequence 0 and share it with sequence 1; then both go on by themselves."""
    kv_evict.init(session.ctx, 8)
    session.decode(TEXT, 0)
    session.share(0, 1)
    for pos in range(N, N + 10):
        for seq in (0, 1):
            session.decode([OWN[seq][pos - N]], pos, seq)


def go_on(session: Session, seq: int) -> npt.NDArray[np.float32]:
    return session.decode_each(OWN[seq][10:], N + 10, seq)


def both_states(session: Session) -> list[bytes]:
    return [kv_evict.state_get(session.ctx, seq) for seq in (0, 1)]


def all_heads(cells: list[int]) -> npt.NDArray[np.int32]:
    return np.ascontiguousarray(np.broadcast_to(np.array(cells, np.int32), (2, 2, len(cells))))


def own_cells(session: Session, seq: int) -> list[int]:
    _, ids, shared = kv_evict.cells(session.ctx, seq)
    return ids[~shared].tolist()


def test_cells_tell_what_is_shared(tiny: Tiny) -> None:
    with Session(tiny(), n_seq=2) as session:
        fork(session)
        for seq in (0, 1):
            pos, ids, shared = kv_evict.cells(session.ctx, seq)
            assert pos.tolist() == list(range(N + 10))
            assert shared.tolist() == [True] * N + [False] * 10
        assert not set(own_cells(session, 0)) & set(own_cells(session, 1))
        assert kv_evict.n_used(session.ctx) == N + 20


@pytest.mark.parametrize("seq", [0, 1])
def test_shared_cells_are_not_written(tiny: Tiny, seq: int) -> None:
    with Session(tiny(), n_seq=2) as session:
        fork(session)
        own, before = own_cells(session, seq), both_states(session)
        src, dst = all_heads([own[0], own[1]]), all_heads([own[2], 7])
        with pytest.raises(kv_evict.NativeError) as caught:
            kv_evict.apply(session.ctx, seq, src, dst, np.array(own[:1], np.int32))
        assert caught.value.status == kv_evict.SHARED
        assert both_states(session) == before


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_shared_rows_can_be_copied_to_own_cells(tiny: Tiny, cache: dict[str, Any]) -> None:
    with Session(tiny(), **cache, n_seq=2) as session:
        fork(session)
        own = own_cells(session, 1)
        other, other_logits = kv_evict.state_get(session.ctx, 0), None
        kv_evict.apply(session.ctx, 1, all_heads([7, 3]), all_heads([own[0], 3]), NO_CELLS)
        assert kv_evict.state_get(session.ctx, 0) == other
        other_logits = go_on(session, 0)
    with Session(tiny(), **cache, n_seq=2) as session:
        fork(session)
        assert np.array_equal(go_on(session, 0), other_logits)


@pytest.mark.parametrize("cache", CACHES, ids=str)
@pytest.mark.parametrize("seq", [0, 1])
def test_removing_shared_cells_leaves_the_other_alone(
    tiny: Tiny, seq: int, cache: dict[str, Any]
) -> None:
    other = 1 - seq
    with Session(tiny(), **cache, n_seq=2) as session:
        fork(session)
        expected, alone = go_on(session, other), go_on(session, seq)
    with Session(tiny(), **cache, n_seq=2) as session:
        fork(session)
        before = kv_evict.state_get(session.ctx, other)
        used = kv_evict.n_used(session.ctx)
        remove_cells(session.ctx, range(5, 35), seq)
        assert kv_evict.n_used(session.ctx) == used
        assert len(kv_evict.cells(session.ctx, seq)[0]) == 20
        assert kv_evict.state_get(session.ctx, other) == before
        assert not kv_evict.cells(session.ctx, other)[2][5:35].any()
        assert np.array_equal(go_on(session, other), expected)
        assert not np.allclose(go_on(session, seq), alone, rtol=0.1)
        remove_cells(session.ctx, range(5, 35), other)
        assert kv_evict.n_used(session.ctx) == used + 40 - 30


@pytest.mark.parametrize("flash", [True, False])
def test_scores_of_the_second_sequence(quiet: Tiny, flash: bool) -> None:
    with Session(quiet(), kv="f32", flash=flash, n_seq=2) as session:
        fork(session)
        for seq in (0, 1):
            model = NumpyLlama(quiet())
            model.decode(TEXT + OWN[seq][:10], 0)
            ids = kv_evict.cells(session.ctx, seq)[1]
            scores = kv_evict.scores(session.ctx, seq, 8, ids)
            expected = model.attention[:, :, -8:].sum(axis=2)
            assert np.abs(scores - expected).max() < 1e-5


def test_a_copied_sequence_has_no_queries(tiny: Tiny) -> None:
    with Session(tiny(), n_seq=2) as session:
        kv_evict.init(session.ctx, 8)
        session.decode(TEXT, 0)
        session.share(0, 1)
        assert kv_evict.n_queries(session.ctx, 1) == 0


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_eviction_by_head_in_one_of_two_sequences(tiny: Tiny, cache: dict[str, Any]) -> None:
    """The other sequence's bytes stay; its logits change only as far as the order of cells does."""
    logits = []
    for evicting in (False, True):
        with Session(tiny(), **cache, n_seq=2) as session:
            kv_evict.init(session.ctx, 8)
            for seq in (0, 1):
                session.decode(TEXT + OWN[seq][:10], 0, seq)
            if evicting:
                before = parse(kv_evict.state_get(session.ctx, 1))
                evict_some(session)
                assert kv_evict.n_used(session.ctx) == N + 40
                after = parse(kv_evict.state_get(session.ctx, 1))
                # all but the header, which tells where free cells are searched from
                assert np.array_equal(after.data[HEADER.size :], before.data[HEADER.size :])
            logits.append(go_on(session, 1))
    assert error(*logits) < 3e-3


def evict_some(session: Session) -> None:
    rows = Rows(session.ctx, 0)
    rows.note_decoded()
    rows.evict(random_keep(rows.held[:, :, : N + 10], 30, 8, np.random.default_rng(1)))


def test_other_sequences_cells_are_out_of_reach(tiny: Tiny) -> None:
    with Session(tiny(), n_seq=2) as session:
        kv_evict.init(session.ctx, 8)
        for seq in (0, 1):
            session.decode(TEXT, 0, seq)
        before = both_states(session)
        mine, other = (own_cells(session, seq) for seq in (0, 1))
        for src, dst, rm in (
            (all_heads(mine[:1]), all_heads(other[:1]), NO_CELLS),
            (all_heads(other[:1]), all_heads(mine[:1]), NO_CELLS),
            (no_moves(session.ctx), no_moves(session.ctx), np.array(other[:1], np.int32)),
        ):
            with pytest.raises(kv_evict.NativeError, match="argument is out of range"):
                kv_evict.apply(session.ctx, 0, src, dst, rm)
        assert both_states(session) == before
