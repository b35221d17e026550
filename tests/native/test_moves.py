"""Rows are moved byte by byte, whatever type the cache has and whatever bits lie in it.

Without flash attention the values of V are moved one by one: of NaNs only the sign is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.native.harness import CACHES, FLASH, PLAIN, Session, error, random_tokens
from tests.native.heads import NO_CELLS
from tests.native.state_bytes import State, parse

Int32 = npt.NDArray[np.int32]

N = 60


def saved(session: Session) -> State:
    return parse(kv_evict.state_get(session.ctx, 0))


def per_head(session: Session, *lists: list[int]) -> Int32:
    """Give every head of every layer the lists in turn."""
    shape = kv_evict.n_layer(session.ctx), kv_evict.n_head_kv(session.ctx)
    heads = [lists[i % len(lists)] for i in range(int(np.prod(shape)))]
    return np.array(heads, np.int32).reshape(*shape, -1)


def move(session: Session, src: Int32, dst: Int32) -> None:
    kv_evict.apply(session.ctx, 0, src, dst, NO_CELLS)


def check_moved(before: State, after: State, src: Int32, dst: Int32) -> None:
    """Compare every byte of K and V with what the moves must have made of them."""
    for old, new in ((before.k, after.k), (before.v, after.v)):
        for layer, rows in enumerate(old):
            expected = rows.copy()
            for head in range(rows.shape[1]):
                expected[dst[layer, head], head] = rows[src[layer, head], head]
            assert np.array_equal(new[layer], expected)
    # nothing but K and V has changed
    assert np.array_equal(after.meta, before.meta)
    assert np.array_equal(after.cells, before.cells)
    assert np.array_equal(after.data[after.tail :], before.data[before.tail :])
    assert after.header | {"hash": 0} == before.header | {"hash": 0}


def random_permutations(shape: tuple[int, int], cells: Int32, seed: int) -> Int32:
    """Give each head a random order of `cells`, int32 (layer, KV head, cell)."""
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.broadcast_to(cells, (*shape, cells.size)), axis=2)
    return np.ascontiguousarray(order, np.int32)


@pytest.mark.parametrize("cache", CACHES, ids=str)
@pytest.mark.parametrize("n_move", [1, 7, N])
def test_random_moves_are_exact(tiny: Tiny, cache: dict[str, Any], n_move: int) -> None:
    with Session(tiny(), **cache) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        before = saved(session)
        every = np.arange(N, dtype=np.int32)
        for seed in range(2):  # the second time on the graph of the first
            src, dst = (
                np.ascontiguousarray(random_permutations((2, 2), every, 2 * seed + i)[..., :n_move])
                for i in (0, 1)
            )
            move(session, src, dst)
            after = saved(session)
            check_moved(before, after, src, dst)
            before = after


@pytest.mark.parametrize(
    "shape",
    [{"n_head_kv": 1}, {"n_head_kv": 8}, {"head_dim": 128}, {"head_dim": 192}, {"n_layer": 3}],
    ids=str,
)
@pytest.mark.parametrize(
    "cache",
    [{"kv": "f16"}, {"kv": "q8_0"}, {"kv": ("f16", "q4_0")}, {"kv": "f16", "flash": False}],
    ids=str,
)
def test_other_shapes_of_heads(tiny: Tiny, shape: dict[str, int], cache: dict[str, Any]) -> None:
    with Session(tiny(**shape), **cache) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        heads = kv_evict.n_layer(session.ctx), kv_evict.n_head_kv(session.ctx)
        before = saved(session)
        src, dst = (random_permutations(heads, np.arange(N, dtype=np.int32), i) for i in (0, 1))
        move(session, src, dst)
        check_moved(before, saved(session), src, dst)


@pytest.mark.parametrize("cache", FLASH, ids=str)
def test_any_bits_survive(tiny: Tiny, cache: dict[str, Any]) -> None:
    """Rows of random bytes hold NaNs of all kinds, in f32 and in the words that are moved."""
    with Session(tiny(), **cache) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        state = saved(session)
        rng = np.random.default_rng(8)
        for rows in state.k + state.v:
            rows[:] = rng.integers(0, 256, rows.shape, np.uint8)
            words = rows.view(np.uint32)
            # quiet and signalling NaNs of both signs, infinities, a denormal
            words[0, :, :6] = 0x7FC00001, 0xFFC12345, 0x7F800001, 0xFF800000, 0x7F800000, 1
        kv_evict.state_set(session.ctx, 0, state.sealed())
        state = parse(state.sealed())
        assert np.array_equal(saved(session).data, state.data)
        src, dst = (random_permutations((2, 2), np.arange(N, dtype=np.int32), i) for i in (3, 4))
        move(session, src, dst)
        check_moved(state, saved(session), src, dst)


# bits of the sign, of the exponent (all set in infinities and NaNs) and of the quiet NaN
BITS = {"f32": (31, 0x7F800000, 22), "f16": (15, 0x7C00, 9), "bf16": (15, 0x7F80, 6)}


@pytest.mark.parametrize("cache", PLAIN, ids=str)
def test_every_value_of_a_transposed_v_survives(tiny: Tiny, cache: dict[str, Any]) -> None:
    """All values of 16 bits, denormals and infinities among them; of NaNs one of each sign."""
    kind = cache["kv"] if isinstance(cache["kv"], str) else cache["kv"][1]
    sign, exponent, quiet = BITS[kind]
    with Session(tiny(), **cache) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        state = saved(session)
        rng = np.random.default_rng(8)
        every = rng.permutation(2**16).astype(np.uint32) << (16 if kind == "f32" else 0)
        tiniest = np.arange(1, 4, dtype=np.uint32)
        every = np.concatenate([tiniest, tiniest | 1 << sign, every])
        not_a_number = every & ((1 << sign) - 1) > exponent
        every[not_a_number] &= 1 << sign | exponent
        every[not_a_number] |= 1 << quiet
        for i, values in enumerate(state.v):
            values[:] = np.resize(np.roll(every, -i * values.size), values.shape)
        kv_evict.state_set(session.ctx, 0, state.sealed())
        state = parse(state.sealed())
        assert np.array_equal(saved(session).data, state.data)
        src, dst = (random_permutations((2, 2), np.arange(N, dtype=np.int32), i) for i in (3, 4))
        move(session, src, dst)
        check_moved(state, saved(session), src, dst)


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_moves_onto_themselves_change_nothing(tiny: Tiny, cache: dict[str, Any]) -> None:
    with Session(tiny(), **cache) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        before = kv_evict.state_get(session.ctx, 0)
        same = random_permutations((2, 2), np.arange(N, dtype=np.int32), 0)
        move(session, same, same)
        move(session, per_head(session, []), per_head(session, []))
        assert kv_evict.state_get(session.ctx, 0) == before


@pytest.mark.parametrize(
    "cache", [{"kv": "f16"}, {"kv": "q8_0"}, {"kv": "f16", "flash": False}], ids=str
)
def test_all_are_read_before_one_is_written(tiny: Tiny, cache: dict[str, Any]) -> None:
    """Two rows change places, three go round, one row goes to three cells."""
    src = [5, 6, 10, 11, 12, 20, 20, 20]
    dst = [6, 5, 11, 12, 10, 21, 22, 23]
    with Session(tiny(), **cache) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        before = saved(session)
        src_all, dst_all = per_head(session, src, src[::-1]), per_head(session, dst, dst[::-1])
        move(session, src_all, dst_all)
        after = saved(session)
        check_moved(before, after, src_all, dst_all)
        assert np.array_equal(after.k[0][5], before.k[0][6])
        assert not np.array_equal(after.k[0][5], before.k[0][5])


@pytest.mark.parametrize(
    ("cache", "tolerance"),
    [
        *[({"kv": "f32"}, 3e-3), ({"kv": "f16"}, 3e-3), ({"kv": "q8_0"}, 1e-5)],
        *[({"kv": "f32", "flash": False}, 1e-5), ({"kv": "f16", "flash": False}, 3e-3)],
    ],
    ids=str,
)
def test_order_of_cells_does_not_matter(
    tiny: Tiny, cache: dict[str, Any], tolerance: float
) -> None:
    """K and V of every head in another order: the next logits stay but for rounding.

    The tolerances are those of llama.cpp's attention, which sums in the order of cells.
    """
    tokens = random_tokens(N + 1)
    with Session(tiny(), **cache) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(tokens[:-1], 0)
        state = kv_evict.state_get(session.ctx, 0)
        expected = session.decode(tokens[-1:], N)
        kv_evict.state_set(session.ctx, 0, state)
        cells = kv_evict.cells(session.ctx, 0)[1]
        order = random_permutations((2, 2), cells, 0)
        move(session, order, np.ascontiguousarray(np.broadcast_to(cells, order.shape)))
        assert error(session.decode(tokens[-1:], N), expected) < tolerance


def test_positions_and_counts_stay(tiny: Tiny) -> None:
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        before = kv_evict.cells(session.ctx, 0)
        move(session, per_head(session, [3, 4]), per_head(session, [50, 51]))
        for old, new in zip(before, kv_evict.cells(session.ctx, 0), strict=True):
            assert np.array_equal(old, new)
        assert (session.last_pos(), kv_evict.n_used(session.ctx)) == (N - 1, N)
