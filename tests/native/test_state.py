"""A saved sequence goes on bit by bit; what is not a saved sequence is refused without harm."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.native.harness import CACHES, Session, error, random_tokens
from tests.native.heads import Rows, no_moves, random_keep, remove_cells
from tests.native.state_bytes import FIELDS, HEADER, parse, seal

N = 70
STATE = -24
WINDOW = 8
TOKENS = random_tokens(N + 130)


def evict(session: Session, rows: Rows, seed: int) -> None:
    """Keep 40 rows by head, 12 of them the newest."""
    rows.note_decoded()
    ids = kv_evict.cells(session.ctx, rows.seq)[1]
    rows.evict(random_keep(rows.held[:, :, ids], 40, 12, np.random.default_rng(seed)))


def begin(session: Session) -> Rows:
    """Decode a prompt and some tokens, with evictions by head between them."""
    kv_evict.init(session.ctx, WINDOW)
    session.decode(TOKENS[:N], 0)
    rows = Rows(session.ctx)
    evict(session, rows, 0)
    session.decode_each(TOKENS[N : N + 20], N)
    evict(session, rows, 1)
    session.decode_each(TOKENS[N + 20 : N + 30], N + 20)
    rows.note_decoded()
    return rows


def go_on(session: Session, rows: Rows) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Logits and scores of 100 more tokens, with an eviction at every twentieth."""
    logits, scores = [], []
    for pos in range(N + 30, N + 130, 20):
        logits.append(session.decode_each(TOKENS[pos : pos + 20], pos))
        ids = kv_evict.cells(session.ctx, 0)[1]
        scores.append(kv_evict.scores(session.ctx, 0, WINDOW, ids))
        evict(session, rows, pos)
    return np.concatenate(logits), np.stack([s[:, :, -20:] for s in scores])


def restored_rows(rows: Rows, session: Session) -> Rows:
    again = Rows(session.ctx)
    again.held[:] = rows.held
    return again


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_a_fresh_context_goes_on_bit_by_bit(tiny: Tiny, cache: dict[str, Any]) -> None:
    with Session(tiny(), **cache) as session:
        rows = begin(session)
        saved = kv_evict.state_get(session.ctx, 0)
        copy = restored_rows(rows, session)
        before = kv_evict.scores(session.ctx, 0, WINDOW, kv_evict.cells(session.ctx, 0)[1])
        expected = go_on(session, rows)
    with Session(tiny(), **cache) as session:
        kv_evict.init(session.ctx, WINDOW)
        kv_evict.state_set(session.ctx, 0, saved)
        assert kv_evict.state_get(session.ctx, 0) == saved
        ids = kv_evict.cells(session.ctx, 0)[1]
        assert np.array_equal(kv_evict.scores(session.ctx, 0, WINDOW, ids), before)
        for got, wanted in zip(go_on(session, restored_rows(copy, session)), expected, strict=True):
            assert np.array_equal(got, wanted)


@pytest.mark.parametrize("flash", [True, False])
def test_a_used_context_goes_back(tiny: Tiny, flash: bool) -> None:
    """The sequence that lies there now is replaced; so it is when it lies in the same cells."""
    with Session(tiny(), flash=flash) as session:
        rows = begin(session)
        saved = kv_evict.state_get(session.ctx, 0)
        copy = restored_rows(rows, session)
        expected = go_on(session, rows)
        kv_evict.state_set(session.ctx, 0, saved)
        assert kv_evict.state_get(session.ctx, 0) == saved
        for i, got in enumerate(go_on(session, copy)):
            assert np.array_equal(got, expected[i])


def test_an_empty_sequence(tiny: Tiny) -> None:
    with Session(tiny(), n_seq=2) as session:
        kv_evict.init(session.ctx, WINDOW)
        empty = kv_evict.state_get(session.ctx, 1)
        session.decode(TOKENS[:N], 0)
        kv_evict.state_set(session.ctx, 0, empty)
        assert (kv_evict.n_used(session.ctx), kv_evict.n_queries(session.ctx, 0)) == (0, 0)
        assert session.last_pos() == -1


@pytest.mark.parametrize("flash", [True, False])
def test_between_two_queries_of_a_sum(tiny: Tiny, flash: bool) -> None:
    """What was added up since the last eviction goes on being added up."""
    totals = []
    with Session(tiny(), flash=flash) as session:
        begin(session)
        session.decode_each(TOKENS[N + 30 : N + 33], N + 30)
        states = [kv_evict.state_get(session.ctx, 0)]
        totals.append(sum_of_six(session))
        states.append(kv_evict.state_get(session.ctx, 0))
    for saved in states[:1] * 2:
        with Session(tiny(), flash=flash) as session:
            kv_evict.init(session.ctx, WINDOW)
            kv_evict.state_set(session.ctx, 0, saved)
            totals.append(sum_of_six(session))
            assert kv_evict.state_get(session.ctx, 0) == states[1]
    assert np.array_equal(totals[0], totals[1])
    assert np.array_equal(totals[0], totals[2])


def sum_of_six(session: Session) -> npt.NDArray[np.float32]:
    session.decode_each(TOKENS[N + 33 : N + 36], N + 33)
    return kv_evict.scores(session.ctx, 0, 6, kv_evict.cells(session.ctx, 0)[1])


@pytest.mark.parametrize("flash", [True, False])
def test_where_another_sequence_lies_in_the_cells(tiny: Tiny, flash: bool) -> None:
    """It is put into other cells: all but their order is the same."""
    with Session(tiny(), flash=flash) as session:
        begin(session)
        saved = kv_evict.state_get(session.ctx, 0)
        expected = session.decode_each(TOKENS[N + 30 : N + 50], N + 30)
    with Session(tiny(), flash=flash, n_seq=2) as session:
        kv_evict.init(session.ctx, WINDOW)
        session.decode(TOKENS[:50], 0, seq=1)
        other = body(session, 1)
        kv_evict.state_set(session.ctx, 0, saved)
        new, old = parse(kv_evict.state_get(session.ctx, 0)), parse(saved)
        for a, b in zip(new.k + new.v, old.k + old.v, strict=True):
            assert np.array_equal(a, b)
        assert np.array_equal(new.meta, old.meta)
        assert not set(new.cells.tolist()) & set(range(50))
        assert kv_evict.n_queries(session.ctx, 0) == WINDOW
        logits = session.decode_each(TOKENS[N + 30 : N + 50], N + 30)
        assert error(logits, expected) < 3e-3
        assert np.array_equal(body(session, 1), other)


def test_as_another_sequence(tiny: Tiny) -> None:
    with Session(tiny(), n_seq=2) as session:
        begin(session)
        kv_evict.state_set(session.ctx, 1, kv_evict.state_get(session.ctx, 0))
        one, two = (parse(kv_evict.state_get(session.ctx, seq)) for seq in (0, 1))
        for a, b in zip(one.k + one.v, two.k + two.v, strict=True):
            assert np.array_equal(a, b)
        assert np.array_equal(one.data[one.tail :], two.data[two.tail :])
        ids = [kv_evict.cells(session.ctx, seq)[1] for seq in (0, 1)]
        scores = [kv_evict.scores(session.ctx, seq, WINDOW, ids[seq]) for seq in (0, 1)]
        assert np.abs(scores[0] - scores[1]).max() < 1e-5


def check_refused(session: Session, data: bytes, seq: int = 0) -> None:
    """Check that `data` is not taken, and that what the sequence held is still there."""
    before = kv_evict.state_get(session.ctx, seq)
    with pytest.raises(kv_evict.NativeError) as caught:
        kv_evict.state_set(session.ctx, seq, data)
    assert caught.value.status == STATE
    assert kv_evict.state_get(session.ctx, seq) == before


@pytest.fixture(scope="module")
def saved(tiny: Tiny) -> bytes:
    with Session(tiny()) as session:
        begin(session)
        return kv_evict.state_get(session.ctx, 0)


@pytest.mark.parametrize(
    ("shape", "arguments", "window"),
    [
        ({}, {"kv": "q8_0"}, WINDOW),
        ({}, {"kv": ("f16", "bf16")}, WINDOW),
        ({}, {"kv": ("bf16", "f16")}, WINDOW),
        ({}, {"flash": False}, WINDOW),
        ({}, {}, WINDOW + 1),
        ({}, {}, 1),
        ({"n_layer": 3}, {}, WINDOW),
        ({"n_head_kv": 4}, {}, WINDOW),
        ({"n_head": 4}, {}, WINDOW),
        ({"head_dim": 128}, {}, WINDOW),
    ],
    ids=str,
)
def test_of_another_context(
    tiny: Tiny, saved: bytes, shape: dict[str, int], arguments: dict[str, Any], window: int
) -> None:
    with Session(tiny(**shape), **arguments) as session:
        kv_evict.init(session.ctx, window)
        session.decode(TOKENS[:20], 0)
        check_refused(session, saved)


@pytest.fixture(scope="module")
def victim(tiny: Tiny) -> Iterator[Session]:
    """A context with two sequences to load broken states into."""
    with Session(tiny(), n_seq=2) as session:
        kv_evict.init(session.ctx, WINDOW)
        for seq in (0, 1):
            session.decode(TOKENS[:20], 0, seq)
        yield session


def test_no_room(tiny: Tiny) -> None:
    """The other sequence leaves too few cells."""
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, WINDOW)
        session.decode(TOKENS[:180], 0)
        large = kv_evict.state_get(session.ctx, 0)
    with Session(tiny(), n_seq=2) as session:
        kv_evict.init(session.ctx, WINDOW)
        session.decode(TOKENS[:100], 0, seq=1)
        session.decode(TOKENS[:20], 0)
        check_refused(session, large)


def test_truncated(victim: Session, saved: bytes) -> None:
    for size in [*range(0, len(saved), 64), len(saved) - 1]:
        check_refused(victim, saved[:size])


def test_longer(victim: Session, saved: bytes) -> None:
    check_refused(victim, saved + bytes(8))


@pytest.mark.parametrize("field", FIELDS)
def test_flips_in_the_header(victim: Session, saved: bytes, field: str) -> None:
    first = 4 * FIELDS.index(field) + 4 * (field == "hash")
    for bit in range(64 if field in ("size", "hash") else 32):
        check_refused(victim, flipped(saved, 8 * first + bit))


def test_flips_anywhere(victim: Session, saved: bytes) -> None:
    for bit in np.random.default_rng(4).integers(0, 8 * len(saved), 1000).tolist():
        check_refused(victim, flipped(saved, bit))


def flipped(data: bytes, bit: int) -> bytes:
    copy = bytearray(data)
    copy[bit // 8] ^= 1 << bit % 8
    return bytes(copy)


def check_harmless(session: Session, data: bytes) -> None:
    """Check that `data` is not taken and does no harm to the other sequence or to the context.

    Its hash is right, so what is wrong may show only after the old sequence is gone.
    """
    other = body(session, 1)
    with pytest.raises(kv_evict.NativeError) as caught:
        kv_evict.state_set(session.ctx, 0, data)
    assert caught.value.status == STATE
    assert kv_evict.n_used(session.ctx) == 20 + len(kv_evict.cells(session.ctx, 0)[0])
    session.remove(-1, -1)
    assert kv_evict.n_used(session.ctx) == 20
    assert np.array_equal(body(session, 1), other)
    session.decode(TOKENS[:20], 0)


def body(session: Session, seq: int) -> npt.NDArray[np.uint8]:
    """Return all but the header, which tells where free cells are searched from."""
    return parse(kv_evict.state_get(session.ctx, seq)).data[HEADER.size :]


def test_made_to_end_early(victim: Session, saved: bytes) -> None:
    for size in range(HEADER.size, len(saved), 1024):
        check_harmless(victim, seal(saved[:size]))


@pytest.mark.parametrize("n_cells", [0, 1, 256, 2**31, 2**32 - 1])
def test_made_with_another_number_of_cells(victim: Session, saved: bytes, n_cells: int) -> None:
    data = bytearray(saved)
    struct.pack_into("<I", data, 4 * FIELDS.index("n_cells"), n_cells)
    check_harmless(victim, seal(bytes(data)))


def test_made_with_a_cell_twice(tiny: Tiny, victim: Session, saved: bytes) -> None:
    """Where its cells are taken, and where they are free: there llama.cpp would abort."""
    state = parse(saved)
    state.cells[3] = state.cells[2]
    check_harmless(victim, state.sealed())
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, WINDOW)
        check_refused(session, state.sealed())
        session.decode(TOKENS[:20], 0)


BAD_ROWS = {
    "before all": (0, -1),
    "far before all": (0, -(2**31)),
    "after all": (0, 2**31 - 1),
    "of no sequence": (1, 0),
    "of two sequences": (1, 2),
    "of countless sequences": (1, -1),
}


@pytest.mark.parametrize("row", [0, 5, -1])
@pytest.mark.parametrize("name", BAD_ROWS)
def test_made_with_a_row_that_cannot_be(victim: Session, saved: bytes, name: str, row: int) -> None:
    """With a negative position a cell would be in use and empty at once."""
    state = parse(saved)
    column, value = BAD_ROWS[name]
    state.meta[row, column] = value
    check_refused(victim, state.sealed())


def test_made_with_a_position_twice(victim: Session, saved: bytes) -> None:
    state = parse(saved)
    state.meta[3, 0] = state.meta[9, 0]
    check_refused(victim, state.sealed())


def test_made_longer(victim: Session, saved: bytes) -> None:
    check_harmless(victim, seal(saved + bytes(8)))


@pytest.mark.parametrize("flash", [True, False])
def test_made_with_any_bit_turned(tiny: Tiny, flash: bool) -> None:
    """Whatever is taken can be gone on with, and does the other sequence no harm."""
    with Session(tiny(), flash=flash, n_seq=2) as session:
        begin(session)
        saved = kv_evict.state_get(session.ctx, 0)
        session.decode(TOKENS[:20], 0, seq=1)
        other = body(session, 1)
        state = parse(saved)
        n_meta = HEADER.size + state.cells.nbytes + state.meta.nbytes + 64
        draw = np.random.default_rng(9)
        bits = [
            *draw.integers(0, 8 * n_meta, 150),
            *draw.integers(8 * state.tail, 8 * len(saved), 50),
        ]
        n_taken = 0
        for bit in bits:
            try:
                kv_evict.state_set(session.ctx, 0, seal(flipped(saved, int(bit))))
            except kv_evict.NativeError as err:
                assert err.status == STATE
            else:
                n_taken += 1
                ids = kv_evict.cells(session.ctx, 0)[1]
                n_query = kv_evict.n_queries(session.ctx, 0)
                if n_query:
                    with suppress(ScopeError):  # a bit may have made a K infinite: refused as such
                        kv_evict.scores(session.ctx, 0, n_query, ids)
                kv_evict.apply(
                    session.ctx, 0, no_moves(session.ctx), no_moves(session.ctx), ids[:1]
                )
                session.decode([7], session.last_pos() + 1)
            assert np.array_equal(body(session, 1), other)
        assert 20 < n_taken < len(bits)
        session.remove(-1, -1)
        assert kv_evict.n_used(session.ctx) == 20


def test_made_for_larger_cache(victim: Session, saved: bytes) -> None:
    """Cells that are not there are no obstacle: the rows go where there is room."""
    state = parse(saved)
    state.cells[-3:] = [1000, 2**30, 2**31 - 1]
    kv_evict.state_set(victim.ctx, 0, state.sealed())
    loaded = parse(kv_evict.state_get(victim.ctx, 0))
    assert loaded.cells.max() < 256
    for a, b in zip(loaded.k + loaded.v, state.k + state.v, strict=True):
        assert np.array_equal(a, b)


def test_not_a_state(victim: Session) -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 56, 1000):
        check_refused(victim, rng.bytes(size))
        check_refused(victim, bytes(size))


def test_a_state_of_llama_cpp_is_not_ours(victim: Session, saved: bytes) -> None:
    check_refused(victim, saved[HEADER.size :])


def test_free_cells_after_loading(tiny: Tiny, saved: bytes) -> None:
    """Cells freed before saving are free after loading: the cache can be filled to the last."""
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, WINDOW)
        kv_evict.state_set(session.ctx, 0, saved)
        n_free = 256 - kv_evict.n_used(session.ctx)
        session.decode_each(random_tokens(n_free), N + 30)
        assert kv_evict.n_used(session.ctx) == 256
        remove_cells(session.ctx, kv_evict.cells(session.ctx, 0)[1].tolist())
        assert kv_evict.n_used(session.ctx) == 0
