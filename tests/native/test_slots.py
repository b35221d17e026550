"""Sequences take turns at the memory for recorded queries, and none sees what another one left."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.native.harness import Session, random_tokens
from tests.native.state_bytes import parse

WINDOW = 8
SLOTS = -27
# cells that lie elsewhere are summed in another order, before K is rounded to f16
ROUNDED = 1e-4
N = 40
FLASH = pytest.mark.parametrize("flash", [True, False])
TEXTS = [random_tokens(N, seed) for seed in (21, 22, 23)]


def scores(session: Session, seq: int, n: int) -> npt.NDArray[np.float32]:
    return kv_evict.scores(session.ctx, seq, n, kv_evict.cells(session.ctx, seq)[1])


def alone(tiny: Tiny, seq: int, flash: bool, n_each: int = 4) -> npt.NDArray[np.float32]:
    """What the last `n_each` tokens of a text look at, in a context of its own."""
    with Session(tiny(), flash=flash) as session:
        kv_evict.init(session.ctx, WINDOW)
        session.decode(TEXTS[seq][:-n_each], 0)
        session.decode_each(TEXTS[seq][-n_each:], N - n_each)
        return scores(session, 0, n_each)


def refused(session: Session, call: Any) -> int:
    """Return the status of a call that changes nothing."""
    before = [kv_evict.state_get(session.ctx, seq) for seq in range(3)]
    with pytest.raises(kv_evict.NativeError) as caught:
        call()
    assert [kv_evict.state_get(session.ctx, seq) for seq in range(3)] == before
    return caught.value.status


@FLASH
def test_one_slot_goes_from_one_sequence_to_the_next(tiny: Tiny, flash: bool) -> None:
    """Every owner scores as if it were alone, and knows only the queries that it asked."""
    with Session(tiny(), flash=flash, n_seq=3) as session:
        kv_evict.init(session.ctx, WINDOW, 1)
        for seq, text in enumerate(TEXTS):
            kv_evict.bind(session.ctx, seq)
            assert kv_evict.n_queries(session.ctx, seq) == 0
            session.decode(text[:3], 0, seq)
            assert kv_evict.n_queries(session.ctx, seq) == 3
            session.decode(text[3:-4], 3, seq)
            session.decode_each(text[-4:], N - 4, seq)
            assert kv_evict.n_queries(session.ctx, seq) == WINDOW
            difference = scores(session, seq, 4) - alone(tiny, seq, flash)
            assert np.abs(difference).max() < ROUNDED
            kv_evict.release(session.ctx, seq)
            assert kv_evict.n_queries(session.ctx, seq) == 0
            assert kv_evict.cells(session.ctx, seq)[0].size == N  # its cells stay


def test_the_first_token_takes_a_slot(tiny: Tiny) -> None:
    with Session(tiny(), n_seq=3) as session:
        kv_evict.init(session.ctx, WINDOW, 2)
        for seq in range(3):
            session.decode(TEXTS[seq], 0, seq)
        assert [kv_evict.n_queries(session.ctx, seq) for seq in range(3)] == [WINDOW, WINDOW, 0]
        kv_evict.bind(session.ctx, 0)  # it has one
        assert kv_evict.n_queries(session.ctx, 0) == WINDOW
        kv_evict.release(session.ctx, 0)
        session.decode(TEXTS[2][:5], N, 2)
        assert kv_evict.n_queries(session.ctx, 2) == 5


@FLASH
def test_without_a_slot_a_sequence_spoils_nobodys(tiny: Tiny, flash: bool) -> None:
    with Session(tiny(), flash=flash, n_seq=3) as session:
        kv_evict.init(session.ctx, WINDOW, 1)
        session.decode(TEXTS[0][:-4], 0, 0)
        session.decode(TEXTS[1][:-4], 0, 1)
        for pos in range(N - 4, N):
            session.decode([TEXTS[0][pos]], pos, 0)
            session.decode([TEXTS[1][pos]], pos, 1)
        assert np.abs(scores(session, 0, 4) - alone(tiny, 0, flash)).max() < ROUNDED
        assert refused(session, lambda: scores(session, 1, 1)) == kv_evict.QUERIES
        assert refused(session, lambda: kv_evict.bind(session.ctx, 1)) == SLOTS
        kv_evict.release(session.ctx, 0)
        kv_evict.bind(session.ctx, 1)
        session.decode([5], N, 1)
        assert kv_evict.n_queries(session.ctx, 1) == 1


@FLASH
def test_slots_change_no_logit_and_no_graph(tiny: Tiny, flash: bool) -> None:
    logits, reused = [], []
    for n_slots in (0, 1):
        with Session(tiny(), flash=flash, n_seq=3) as session:
            kv_evict.init(session.ctx, WINDOW, n_slots)
            of_seqs = [
                np.concatenate(
                    [session.decode(text[:20], 0, seq), session.decode_each(text[20:], 20, seq)]
                )
                for seq, text in enumerate(TEXTS)
            ]
            logits.append(np.stack(of_seqs))
            reused.append(session.n_reused)
    assert np.array_equal(*logits)
    assert reused[0] == reused[1] > 0


@FLASH
def test_a_state_takes_a_slot(tiny: Tiny, flash: bool) -> None:
    with Session(tiny(), flash=flash, n_seq=3) as session:
        kv_evict.init(session.ctx, WINDOW, 1)
        session.decode(TEXTS[0][:-4], 0, 0)
        session.decode_each(TEXTS[0][-4:], N - 4, 0)
        saved, before = kv_evict.state_get(session.ctx, 0), scores(session, 0, 4)
        assert refused(session, lambda: kv_evict.state_set(session.ctx, 1, saved)) == SLOTS
        kv_evict.release(session.ctx, 0)
        kv_evict.state_set(session.ctx, 1, saved)
        assert kv_evict.n_queries(session.ctx, 1) == WINDOW
        assert np.abs(scores(session, 1, 4) - before).max() < ROUNDED


def test_a_state_without_a_slot_has_no_queries(tiny: Tiny) -> None:
    with Session(tiny(), n_seq=3) as session:
        kv_evict.init(session.ctx, WINDOW, 1)
        session.decode(TEXTS[0], 0, 0)
        kv_evict.release(session.ctx, 0)
        saved = kv_evict.state_get(session.ctx, 0)
        kv_evict.state_set(session.ctx, 1, saved)
        assert kv_evict.n_queries(session.ctx, 1) == 0
        assert kv_evict.cells(session.ctx, 1)[0].tolist() == list(range(N))


def test_states_are_those_of_earlier_versions(tiny: Tiny) -> None:
    """The interface changed since, what is written did not: old sessions are read."""
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, WINDOW)
        session.decode(TEXTS[0], 0)
        assert parse(kv_evict.state_get(session.ctx, 0)).header["form"] == kv_evict.STATE_FORM == 4
