"""Models whose memory has more than the cells that are chosen, or differs between layers.

Windows, recurrent states and sinks: such layers must not notice what is evicted; the others attend
to what each head kept, as if the rest had never been. And layers with other numbers of heads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp
from tests.architectures.memories import (
    DIFFERING,
    EXPERTS,
    READERS,
    RECURRENT,
    SHORT_WINDOWS,
    WINDOWED,
)
from tests.architectures.table import WINDOW
from tests.conftest import Tiny
from tests.native.harness import AttentionLog, Session, error, random_tokens
from tests.native.heads import Rows, as_originals, random_keep, remove_cells

every_arch = pytest.mark.parametrize("arch", [*WINDOWED, *RECURRENT, *DIFFERING])
ATTENTION = {"flash": {"flash": True}, "plain": {"flash": False, "kv": "f32"}}
every_attention = pytest.mark.parametrize("attention", ATTENTION)

N_PROMPT, N_OUTPUT, INTERVAL = 75, 60, 20
N_KEPT, N_RECENT, N_QUERIES = 40, 12, 8
TOKENS = random_tokens(N_PROMPT + N_OUTPUT + INTERVAL)

# of the logits, relative: flash attention rounds to f16, the plain one in f32 does not
TOLERANCE = {"flash": 2e-2, "plain": 1e-3}


@contextmanager
def opened(
    path: Path, attention: str = "flash", n_cells: int = 256, n_seq: int = 1, **more: Any
) -> Iterator[Session]:
    """A context as the engine makes it."""
    fields = {"n_ubatch": 32, **ATTENTION[attention], **more}
    kv_evict.make_bounded(True)
    try:
        session = Session(path, n_cells, n_seq=n_seq, more={"swa_full": False}, **fields)
    finally:
        kv_evict.make_bounded(False)
    with session:
        yield session


def begin(session: Session, seq: int = 0) -> Rows:
    """Decode a prompt in several batches."""
    kv_evict.init(session.ctx, N_QUERIES)
    return read(session, seq)


def read(session: Session, seq: int = 0) -> Rows:
    for start in range(0, N_PROMPT, 30):
        session.decode(TOKENS[start : min(start + 30, N_PROMPT)], start, seq)
    return Rows(session.ctx, seq)


def evict(rows: Rows, seed: int) -> npt.NDArray[np.bool_]:
    """Keep another set of rows in every head; return which of all positions."""
    rows.note_decoded()
    ids = kv_evict.cells(rows.ctx, rows.seq)[1]
    keep = random_keep(rows.held[:, :, ids], N_KEPT, N_RECENT, np.random.default_rng(seed))
    keep = as_originals(rows.ctx, keep)
    rows.evict(keep)
    return keep


class Masked(AttentionLog):
    """Attention of a full cache, with other cells hidden from every KV head of some layers.

    Its weights are taken away after the softmax, and the others made as large as if they had not
    been there, which is right with sinks too.
    """

    def __init__(self, readers: dict[int, int]) -> None:
        super().__init__()
        self._readers = readers
        base = ctypes.CDLL(llama_cpp.llama_cpp._lib._name)
        self._write = base.ggml_backend_tensor_set
        self._write.restype = None
        self._write.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_size_t] * 2
        self.hidden: dict[int, npt.NDArray[np.bool_]] = {}  # layer: (KV head, cell)

    def hide(self, ctx: object, keep: npt.NDArray[np.bool_]) -> None:
        """Hide what is not kept, (layer, KV head, cell)."""
        layers, own = kv_evict.layer_ids(ctx).tolist(), kv_evict.own_heads(ctx)[:, 1]
        for layer, n, kept in zip(layers, own, keep, strict=True):
            self.hidden[layer] = self.hidden[self._readers.get(layer, layer)] = ~kept[:n]

    def watch(self, tensor: int, ask: bool, more: int | None) -> bool:
        wanted = super().watch(tensor, ask, more)
        layer = int(self._name(tensor).decode().rpartition("-")[2]) if wanted and not ask else -1
        if layer in self.hidden:
            weights = self._parts[layer][-1].copy()
            n_head_kv, n = self.hidden[layer].shape
            hidden = np.zeros((n_head_kv, weights.shape[2]), np.bool_)
            hidden[:, :n] = self.hidden[layer]
            groups = weights.reshape(n_head_kv, -1, *weights.shape[1:])
            lost = (groups * hidden[:, None, None]).sum(axis=-1, keepdims=True)
            groups *= ~hidden[:, None, None] / (1 - lost)
            self._write(tensor, weights.ctypes.data, 0, weights.nbytes)
        return wanted


@every_arch
@every_attention
def test_recording_changes_no_bit(tiny_arch: Tiny, arch: str, attention: str) -> None:
    logits = []
    for recording in (False, True):
        with opened(tiny_arch(arch=arch), attention) as session:
            if recording:
                kv_evict.init(session.ctx, N_QUERIES)
            logits += [session.decode(TOKENS[:N_PROMPT], 0)]
            logits += [session.decode_each(TOKENS[N_PROMPT : N_PROMPT + 20], N_PROMPT)]
    assert np.array_equal(logits[0], logits[2]) and np.array_equal(logits[1], logits[3])


@every_arch
@every_attention
def test_scores_are_the_weights_of_the_attention(
    tiny_arch: Tiny, arch: str, attention: str
) -> None:
    path, log = tiny_arch(arch=arch), AttentionLog()
    with opened(path, "plain", on_tensor=log.watch) as session:
        read(session)
    with opened(path, attention) as session:
        begin(session)
        layers, ids = kv_evict.layer_ids(session.ctx), kv_evict.cells(session.ctx, 0)[1]
        own = kv_evict.own_heads(session.ctx)[:, 1]
        for n in (1, N_QUERIES):
            scores = kv_evict.scores(session.ctx, 0, n, ids)
            queries = range(N_PROMPT - n, N_PROMPT)
            # window layers have as many cells here: each text is in the order of its tokens
            expected = np.zeros((own.size, own.max(), N_PROMPT), np.float32)
            for i, (layer, n_own) in enumerate(zip(layers.tolist(), own, strict=True)):
                readers = {layer, READERS.get(arch, {}).get(layer, layer)}
                weights = log.weights(n_own, queries, N_PROMPT, sorted(readers))
                expected[i, :n_own] = weights.sum(axis=0)
            expected = as_originals(session.ctx, expected)
            assert scores.sum() > 1
            atol = 1e-4 if attention == "plain" else 5e-3 * n
            np.testing.assert_allclose(scores, expected, rtol=0, atol=atol)


@every_arch
@every_attention
def test_evicting_is_hiding_from_the_layers_that_see_everything(
    tiny_arch: Tiny, arch: str, attention: str
) -> None:
    if attention == "flash" and arch in EXPERTS:
        pytest.skip("flash attention rounds so much that other experts answer")
    path, masked = tiny_arch(arch=arch), Masked(READERS.get(arch, {}))
    with (
        opened(path, attention) as session,
        opened(path, "plain", on_tensor=masked.watch) as full,
    ):
        rows, _ = begin(session), read(full)
        worst = 0.0
        for step, start in enumerate(range(N_PROMPT, N_PROMPT + N_OUTPUT, INTERVAL)):
            masked.hide(session.ctx, evict(rows, step))
            assert kv_evict.n_used(session.ctx) == N_KEPT
            tokens = TOKENS[start : start + INTERVAL]
            logits = session.decode_each(tokens, start)
            worst = max(worst, error(logits, full.decode_each(tokens, start)))
    assert worst < TOLERANCE[attention]
    with opened(path, attention) as session:
        read(session)
        unbounded = session.decode_each(TOKENS[N_PROMPT : start + INTERVAL], N_PROMPT)
        changed = error(logits, unbounded[-INTERVAL:])
    assert changed > 0.1, "nothing was lost: this shows nothing"


@every_arch
@every_attention
def test_a_saved_sequence_goes_on_bit_by_bit(tiny_arch: Tiny, arch: str, attention: str) -> None:
    path = tiny_arch(arch=arch)
    with opened(path, attention) as session:
        rows = begin(session)
        evict(rows, 0)
        session.decode_each(TOKENS[N_PROMPT : N_PROMPT + 15], N_PROMPT)
        start = N_PROMPT + 15
        saved = kv_evict.state_get(session.ctx, 0)
        expected = session.decode_each(TOKENS[start : start + 40], start)
    with opened(path, attention) as session:
        kv_evict.init(session.ctx, N_QUERIES)
        session.decode(random_tokens(50, seed=9), 0)  # what is there is replaced
        kv_evict.state_set(session.ctx, 0, saved)
        assert kv_evict.state_get(session.ctx, 0) == saved
        assert np.array_equal(session.decode_each(TOKENS[start : start + 40], start), expected)


@every_arch
def test_a_damaged_state_leaves_nothing_of_the_sequence(tiny_arch: Tiny, arch: str) -> None:
    with opened(tiny_arch(arch=arch)) as session:
        begin(session)
        saved = kv_evict.state_get(session.ctx, 0)
        for cut in (saved[:-1], saved[: len(saved) // 2], saved + b"\0" * 4):
            with pytest.raises(kv_evict.NativeError, match="not a state"):
                kv_evict.state_set(session.ctx, 0, cut)
        assert kv_evict.state_get(session.ctx, 0) == saved


@every_arch
def test_two_sequences_are_each_as_if_alone(tiny_arch: Tiny, arch: str) -> None:
    path = tiny_arch(arch=arch)
    expected = []
    for seed in (0, 1):
        with opened(path, "plain") as session:
            evict(begin(session), seed)
            expected.append(session.decode_each(TOKENS[N_PROMPT : N_PROMPT + 30], N_PROMPT))
    with opened(path, "plain", n_seq=2) as session:
        rows = [begin(session), read(session, 1)]
        for seed, one in enumerate(rows):
            evict(one, seed)
        found = [
            session.decode_batch([(token, pos, (0,)), (token, pos, (1,))])
            for pos, token in enumerate(TOKENS[N_PROMPT : N_PROMPT + 30], N_PROMPT)
        ]
    for seq in (0, 1):
        assert error(np.stack([both[seq] for both in found]), expected[seq]) < TOLERANCE["plain"]


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


@every_arch
def test_memory_beside_the_cells_is_told(tiny_arch: Tiny, arch: str) -> None:
    with opened(tiny_arch(arch=arch)) as session:
        kv_evict.init(session.ctx, 1)
        held = kv_evict.memory(session.ctx)
        sizes = kv_evict.head_size(session.ctx), kv_evict.head_size(session.ctx, values=True)
        per_cell = int(kv_evict.own_heads(session.ctx)[:, 1].sum()) * sum(sizes) * 2
        assert sum(held["cells"]) == 256 * per_cell
        assert bool(sum(held["beside"])) == (arch not in DIFFERING)
        assert sum(held["cells"]) + sum(held["beside"]) == kv_evict.n_bytes(session.ctx)


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
