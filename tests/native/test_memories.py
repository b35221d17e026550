"""Memory beside the cells, how far it goes back, and layers with other numbers of heads.

What holds of every architecture is in tests/architectures/test_bounded.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from scope_cpp.native import kv_evict
from tests.architectures.hiding import N_PROMPT, TOKENS, begin, every_attention, evict, opened
from tests.architectures.memories import DIFFERING, RECURRENT, SHORT_WINDOWS
from tests.architectures.table import WINDOW
from tests.conftest import Tiny
from tests.native.harness import random_tokens
from tests.native.heads import as_originals, remove_cells


@pytest.mark.parametrize("arch", ["gemma2", "gemma3", "gemma4", "gpt-oss", "cohere2"])
def test_a_window_is_as_large_as_it_must_be(tiny_arch: Tiny, arch: str) -> None:
    """However few cells are beside it: 2,000 tokens go through 256 cells."""
    path = tiny_arch(arch=arch, attention__sliding_window=400, context_length=4096)
    with opened(path) as session:
        rows = begin(session)
        for pos in range(N_PROMPT, 1000):
            if kv_evict.n_used(session.ctx) == 250:
                rows.note_decoded()
                remove_cells(session.ctx, kv_evict.cells(session.ctx, 0)[1][:100])
            assert np.isfinite(session.decode([TOKENS[pos % len(TOKENS)]], pos)).all()
        assert kv_evict.n_cells(session.ctx) == 256
        assert kv_evict.can_end(session.ctx, 0, 1000)


@pytest.mark.parametrize("arch", SHORT_WINDOWS)
def test_a_window_can_be_cut_as_far_as_it_goes_back(tiny_arch: Tiny, arch: str) -> None:
    with opened(tiny_arch(arch=arch), n_cells=512) as session:
        begin(session)
        assert all(kv_evict.can_end(session.ctx, 0, pos) for pos in range(N_PROMPT + 1))
        session.decode_each(random_tokens(512 - N_PROMPT), N_PROMPT)
        # the window cache has 256 cells here
        can = [kv_evict.can_end(session.ctx, 0, pos) for pos in range(1, 513)]
        first = can.index(True) + 1
        assert first + 1 - WINDOW == 512 - 256
        assert all(can[first - 1 :]) and not kv_evict.can_end(session.ctx, 0, 513)


@pytest.mark.parametrize("arch", RECURRENT)
def test_a_recurrent_state_ends_where_it_is(tiny_arch: Tiny, arch: str) -> None:
    with opened(tiny_arch(arch=arch)) as session:
        begin(session)
        can = [pos for pos in range(N_PROMPT + 2) if kv_evict.can_end(session.ctx, 0, pos)]
        assert can == [0, N_PROMPT]


@pytest.mark.parametrize("arch", DIFFERING)
@every_attention
def test_what_is_read_of_layers_with_other_heads_fits_together(
    tiny_arch: Tiny, arch: str, attention: str
) -> None:
    """Queries and keys give the weights of each query head; rows of both kinds the likeness."""
    with opened(tiny_arch(arch=arch), attention) as session:
        ctx = session.ctx
        evict(begin(session), 3)
        ids = kv_evict.cells(ctx, 0)[1]
        keys, values = (kv_evict.rows(ctx, 0, ids, values=what) for what in (False, True))
        queries = kv_evict.queries(ctx, 0, 1, N_PROMPT - 1)
        n_layer, n_head_kv, n, size = keys.shape
        grouped = queries.reshape(n_layer, n_head_kv, -1, size)
        weights = np.exp(grouped @ keys.swapaxes(2, 3))
        weights /= weights.sum(axis=-1, keepdims=True)
        found = kv_evict.scores(ctx, 0, 1, ids, by_head=True)
        atol = 1e-4 if attention == "plain" else 5e-3
        np.testing.assert_allclose(found, weights.reshape(n_layer, -1, n), rtol=0, atol=atol)
        summed = kv_evict.scores(ctx, 0, 1, ids)
        own = kv_evict.own_heads(ctx)
        for i, (n_q, n_kv) in enumerate(own):
            heads = found[i].reshape(n_head_kv, -1, n)[:n_kv, : n_q // n_kv]
            np.testing.assert_allclose(summed[i, :n_kv], heads.sum(axis=1), rtol=1e-5, atol=1e-6)
        units = [rows / np.linalg.norm(rows, axis=3, keepdims=True) for rows in (keys, values)]
        alike = sum(unit[:, :, -1:] @ unit[:, :, :-1].swapaxes(2, 3) for unit in units) / 2
        likeness = kv_evict.likeness(ctx, 0, ids, 1, value_weight=1.0)
        np.testing.assert_allclose(likeness[:, :, 0], alike.max(axis=3)[:, :, 0], rtol=0, atol=2e-3)
        for read in (keys, values, summed, likeness, grouped, found.reshape(*summed.shape[:2], -1)):
            flat = read.reshape(*read.shape[:2], -1)
            assert np.array_equal(flat, as_originals(ctx, flat))
        assert (own < (kv_evict.n_head(ctx), n_head_kv)).any()


@pytest.mark.parametrize("arch", DIFFERING)
def test_a_double_must_be_moved_as_its_original(tiny_arch: Tiny, arch: str) -> None:
    with opened(tiny_arch(arch=arch)) as session:
        begin(session)
        ctx, ids = session.ctx, kv_evict.cells(session.ctx, 0)[1]
        before = kv_evict.rows(ctx, 0, ids)
        own = kv_evict.own_heads(ctx)[:, 1]
        layer = int(np.argmin(own))
        src = np.full((own.size, own.max(), 1), ids[-1], np.int32)
        dst = src.copy()
        dst[layer, own[layer] :] = ids[0]
        with pytest.raises(kv_evict.NativeError, match="out of range"):
            kv_evict.apply(ctx, 0, src, dst, ids[:1])
        assert np.array_equal(kv_evict.rows(ctx, 0, ids), before)
        dst[layer] = ids[0]
        kv_evict.apply(ctx, 0, src, dst, ids[:0])
        moved = before.copy()
        moved[layer, :, 0] = before[layer, :, -1]
        assert np.array_equal(kv_evict.rows(ctx, 0, ids), moved)


def test_a_state_of_other_heads_is_refused(tiny_arch: Tiny) -> None:
    """Also where it is as large, and llama.cpp would take the rows: nothing is lost."""
    other = {"attention__head_count": [2, 4, 6, 4], "attention__head_count_kv": [1, 2, 3, 2]}
    with opened(tiny_arch(arch="openelm-growing", **other)) as session:
        begin(session)
        saved = kv_evict.state_get(session.ctx, 0)
    with opened(tiny_arch(arch="openelm-growing")) as session:
        begin(session)
        before = kv_evict.state_get(session.ctx, 0)
        assert len(before) == len(saved)
        with pytest.raises(kv_evict.NativeError, match="not a state"):
            kv_evict.state_set(session.ctx, 0, saved)
        assert kv_evict.state_get(session.ctx, 0) == before
