"""How alike a new cell is to those before it, by the rows that lie in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.native.harness import CACHES, Session, random_tokens
from tests.native.heads import Rows, random_keep
from tests.policies.naive import unlikeness

N, N_NEW = 60, 7
ARGUMENT = -21


def read(session: Session, ids: npt.NDArray[np.int32]) -> tuple[Any, Any]:
    rows = [kv_evict.rows(session.ctx, 0, ids, values=values) for values in (False, True)]
    return rows[0], rows[1]


def likeness(session: Session, ids: npt.NDArray[np.int32], n_new: int = N_NEW) -> Any:
    return kv_evict.likeness(session.ctx, 0, ids, n_new, value_weight=0.5)


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_by_the_rows_of_the_cache(tiny: Tiny, cache: dict[str, Any]) -> None:
    """Of every KV type, with and without flash attention, after per-head moves too."""
    rng = np.random.default_rng(3)
    with Session(tiny(), **cache) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        held = Rows(session.ctx)
        held.note_decoded()
        for _ in range(2):
            _, ids, _ = kv_evict.cells(session.ctx, 0)
            found = 1 - np.clip(likeness(session, ids), 0, 1)
            assert found == pytest.approx(unlikeness(*read(session, ids), N_NEW, 1), abs=2e-3)
            assert found.max() > 0.1
            held.evict(random_keep(held.held[:, :, ids], N // 2, 5, rng))


@pytest.mark.parametrize("n_new", [1, 40, 300])
def test_more_cells_than_a_block(tiny: Tiny, n_new: int) -> None:
    with Session(tiny(), n_ctx=1536, kv="f32") as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(1400), 0)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        keys, values = (rows.astype(np.float64) for rows in read(session, ids))
        for rows in (keys, values):
            rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
        alike = (keys @ keys.swapaxes(2, 3) + 0.5 * values @ values.swapaxes(2, 3)) / 1.5
        before = np.tril(np.ones((ids.size, ids.size), np.bool_), -1)
        expected = np.where(before, alike, -1).max(axis=3)[:, :, -n_new:]
        assert likeness(session, ids, n_new) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_some_layers(tiny: Tiny, cache: dict[str, Any]) -> None:
    """As of all of them, in whatever order they are asked about; -1 in the others."""
    with Session(tiny(), **cache) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        n_layer = kv_evict.n_layer(session.ctx)
        whole = likeness(session, ids)
        for wanted in ([0], [n_layer - 1], [], list(range(n_layer)), [0]):
            layers = np.isin(np.arange(n_layer), wanted)
            found = kv_evict.likeness(session.ctx, 0, ids, N_NEW, value_weight=0.5, layers=layers)
            assert np.array_equal(found[layers], whole[layers])
            assert (found[~layers] == -1).all()
        with pytest.raises(ValueError, match="layers"):
            kv_evict.likeness(session.ctx, 0, ids, 1, value_weight=1, layers=layers[1:])


def test_a_double_is_found(tiny: Tiny) -> None:
    """The same token at the same place of the text, copied into a head's other cell."""
    with Session(tiny(), kv="f32") as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        before = likeness(session, ids)
        shape = (kv_evict.n_layer(session.ctx), kv_evict.n_head_kv(session.ctx), 1)
        src, dst = np.full(shape, ids[-1], np.int32), np.full(shape, ids[9], np.int32)
        src[1:], dst[1:] = ids[9], ids[9]
        kv_evict.apply(session.ctx, 0, src, dst, ids[:0])
        after = likeness(session, ids)
        assert after[0, :, -1] == pytest.approx(1, abs=1e-5)
        assert (before[0, :, -1] < 0.99).all()
        assert np.array_equal(after[1:], before[1:])


def by_rows(session: Session, ids: npt.NDArray[np.int32]) -> Any:
    return pytest.approx(unlikeness(*read(session, ids), N_NEW, 1), abs=1e-3)


def found(session: Session, ids: npt.NDArray[np.int32]) -> Any:
    return 1 - np.clip(likeness(session, ids), 0, 1)


def test_rows_that_took_the_place_of_others(tiny: Tiny) -> None:
    """Nothing that was known of the former is left: other tokens, a state, a copy."""
    with Session(tiny(), kv="f32") as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        state = kv_evict.state_get(session.ctx, 0)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        first = found(session, ids)
        assert first == by_rows(session, ids)
        session.remove(20, -1)
        session.decode(random_tokens(N - 20, seed=8), 20)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        assert found(session, ids) == by_rows(session, ids)
        kv_evict.state_set(session.ctx, 0, state)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        assert np.array_equal(found(session, ids), first)


def test_the_first_cell_is_like_none(tiny: Tiny) -> None:
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(5), 0)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        found = likeness(session, ids, 5)
        assert (found[:, :, 0] == -1).all() and (found[:, :, 1:] > -1).all()
        assert likeness(session, ids, 0).size == 0


def test_dead_rows_are_not_looked_at(tiny: Tiny) -> None:
    with Session(tiny(), kv="f32") as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        keys, values = read(session, ids)
        dead = np.zeros((kv_evict.n_layer(session.ctx), N), np.bool_)
        dead[1, 3 : N - N_NEW : 2] = True
        kv_evict.set_dead(session.ctx, 0, ids, dead)
        keys[:, :, dead[1]] = np.where(dead[:, None, dead[1], None], np.nan, keys[:, :, dead[1]])
        expected = unlikeness(keys, values, N_NEW, 1)
        assert 1 - np.clip(likeness(session, ids), 0, 1) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("wrong", ["cell", "empty", "n_new", "weight"])
def test_arguments_out_of_range(tiny: Tiny, wrong: str) -> None:
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(5), 0)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        changed = ids.copy()
        changed[0] = {"cell": 10**6, "empty": 200}.get(wrong, changed[0])
        n_new, weight = 9 if wrong == "n_new" else 2, -1.0 if wrong == "weight" else 0.5
        with pytest.raises(kv_evict.NativeError) as caught:
            kv_evict.likeness(session.ctx, 0, changed, n_new, value_weight=weight)
        assert caught.value.status == ARGUMENT
