"""Attention scores against the weights that llama.cpp itself computes without flash attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp
from scope_cpp.reference.numpy_llama import NumpyLlama
from tests.conftest import Tiny
from tests.native.harness import AttentionLog, Session, Token, random_tokens
from tests.native.heads import Rows, random_keep, remove_cells

F32 = npt.NDArray[np.float32]
Kv = str | tuple[str, str]

N = 75  # tokens of a text: two ubatches of 32 and a rest

# absolute, for a sum over up to 16 queries: only the order of sums differs
EXACT = 1e-5
# against a model that computes in f32 throughout, for one and for eight queries: the kernels round
# queries to f16, and to q8_0 in a cache of that type
ROUNDED = {"f16": {1: 2e-4, 8: 5e-4}, "q8_0": {1: 1.5e-2, 8: 1.5e-2}}


def text(n: int = N, seq: int = 0, seed: int = 5) -> list[Token]:
    return [(token, pos, (seq,)) for pos, token in enumerate(random_tokens(n, seed))]


def plain_path(
    path: Path, batches: Sequence[list[Token]], kv: Kv = "f16"
) -> Callable[[int, int], F32]:
    """Weights of the last queries of a sequence on every cell, without flash attention.

    The batches go to a fresh cache, which is filled from the first cell on.
    """
    log = AttentionLog()
    with Session(path, kv=kv, flash=False, n_ubatch=32, n_seq=2, on_tensor=log.watch) as session:
        for batch in batches:
            session.decode_batch(batch)
        n_head_kv = llama_cpp.llama_model_n_head_kv(session.model)
    order = [token for batch in batches for token in batch]

    def weights(n_query: int, seq: int = 0) -> F32:
        queries = [i for i, (_, _, seqs) in enumerate(order) if seqs == (seq,)][-n_query:]
        return log.weights(n_head_kv, queries, len(order))

    return weights


def scored(session: Session, n_query: int, seq: int = 0) -> F32:
    """Scores on every cell up to the last one of the sequence's, or of anybody's."""
    return kv_evict.scores(session.ctx, seq, n_query, every_cell(session))


def every_cell(session: Session) -> npt.NDArray[np.int32]:
    return np.arange(kv_evict.n_used(session.ctx), dtype=np.int32)


# without flash attention V can't be quantized
@pytest.mark.parametrize("kv", ["f32", "f16", "bf16", ("q8_0", "f16"), ("q4_0", "f16")], ids=str)
@pytest.mark.parametrize("n_head_kv", [1, 2, 4, 8])
def test_equal_the_softmax_of_the_plain_path(quiet: Tiny, n_head_kv: int, kv: Kv) -> None:
    path = quiet(n_head_kv=n_head_kv)
    batches = [text()[:70], text()[70:]]
    expected = plain_path(path, batches, kv)
    with Session(path, kv=kv, n_ubatch=32) as session:
        kv_evict.init(session.ctx, 16)
        for batch in batches:
            session.decode_batch(batch)
        for n_query in (1, 8, 16):
            scores = scored(session, n_query)
            assert scores.shape == (2, n_head_kv, N)
            assert np.abs(scores - expected(n_query, 0)).max() < EXACT
            assert np.allclose(scores.sum(axis=2), n_query * 8 // n_head_kv, atol=1e-4)


@pytest.mark.parametrize(
    "shape",
    [{"n_expert": 4}, *({"arch": arch} for arch in ("qwen2", "qwen3", "phi3", "mistral3"))],
    ids=str,
)
def test_equal_the_softmax_in_other_architectures(quiet: Tiny, shape: dict[str, Any]) -> None:
    path = quiet(**shape)
    with Session(path, n_ubatch=32) as session:
        kv_evict.init(session.ctx, 8)
        session.decode_batch(text())
        expected = plain_path(path, [text()])
        assert np.abs(scored(session, 8) - expected(8, 0)).max() < EXACT


@pytest.mark.parametrize("kv", ["f16", "q8_0"])
def test_equal_the_numpy_model(tiny: Tiny, kv: str) -> None:
    path = tiny(peaky=1.0)
    model = NumpyLlama(path, kv_dtype=np.float16)
    model.decode(random_tokens(N), 0)
    with Session(path, kv=kv) as session:
        kv_evict.init(session.ctx, 16)
        session.decode(random_tokens(N), 0)
        for n_query in (1, 7, 8):
            expected = model.attention[:, :, -n_query:].sum(axis=2)
            by_head = model.attention_by_head[:, :, -n_query:].sum(axis=2)
            ids = kv_evict.cells(session.ctx, 0)[1]
            ours = kv_evict.scores(session.ctx, 0, n_query, ids, by_head=True)
            bound = ROUNDED[kv][1 if n_query == 1 else 8]
            assert np.abs(scored(session, n_query) - expected).max() < bound
            assert np.abs(ours - by_head).max() < bound


def test_a_window_is_the_sum_of_its_queries(tiny: Tiny) -> None:
    """So no query of a window sees a token after it."""
    tokens = random_tokens(N)
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 8)
        session.decode(tokens[:-8], 0)
        total = np.zeros((2, 2, N), np.float32)
        for pos in range(N - 8, N):
            session.decode([tokens[pos]], pos)
            total[:, :, : pos + 1] += scored(session, 1)
        window = scored(session, 8)
    assert np.abs(window - total).max() < 1e-5
    assert (window[:, :, -1] > 0).all()


def test_ubatches_do_not_matter(quiet: Tiny) -> None:
    whole, split = (recorded(quiet(), n_ubatch) for n_ubatch in (512, 7))
    assert np.abs(whole - split).max() < EXACT


def recorded(path: Path, n_ubatch: int) -> F32:
    with Session(path, n_ubatch=n_ubatch) as session:
        kv_evict.init(session.ctx, 16)
        session.decode(random_tokens(N), 0)
        return scored(session, 16)


def test_order_and_choice_of_cells(tiny: Tiny) -> None:
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        every = scored(session, 4)
        ids = np.array([70, 3, 3, 41], np.int32)
        assert np.array_equal(kv_evict.scores(session.ctx, 0, 4, ids), every[:, :, ids])
        assert kv_evict.scores(session.ctx, 0, 4, ids[:0]).shape == (2, 2, 0)


def test_every_window_size(quiet: Tiny) -> None:
    """Odd sizes too: sums are made by halving."""
    path = quiet(n_head_kv=8)
    model = NumpyLlama(path)
    model.decode(random_tokens(N), 0)
    with Session(path, kv="f32") as session:
        kv_evict.init(session.ctx, 13)
        session.decode(random_tokens(N), 0)
        for n_query in range(1, 14):
            expected = model.attention[:, :, -n_query:].sum(axis=2)
            assert np.abs(scored(session, n_query) - expected).max() < EXACT


def interleaved() -> list[Token]:
    pairs = zip(text(40), text(40, seq=1, seed=6), strict=True)
    return [token for pair in pairs for token in pair]


LAYOUTS: dict[str, list[list[Token]]] = {
    "one after the other": [text(40), text(30, seq=1, seed=6)],
    "interleaved": [interleaved()],
    "interleaved, then apart": [
        interleaved(),
        [(11, 40, (0,))],
        [(12, 40, (1,)), (13, 41, (0,)), (14, 42, (0,))],
    ],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_sequences_in_one_cache(quiet: Tiny, layout: str) -> None:
    batches = LAYOUTS[layout]
    expected = plain_path(quiet(), batches)
    with Session(quiet(), n_ubatch=32, n_seq=2) as session:
        kv_evict.init(session.ctx, 8)
        for batch in batches:
            session.decode_batch(batch)
        for seq in (0, 1):
            for n_query in (1, 8):
                scores = scored(session, n_query, seq)
                assert np.abs(scores - expected(n_query, seq)).max() < EXACT
                own = kv_evict.cells(session.ctx, seq)[1]
                others = np.setdiff1d(every_cell(session), own)
                assert (scores[:, :, others] == 0).all()


def test_after_evictions_by_head(quiet: Tiny) -> None:
    """Against the NumPy model with the same evictions, whose rows differ by head."""
    rng = np.random.default_rng(3)
    model = NumpyLlama(quiet())
    tokens = random_tokens(N + 24)
    with Session(quiet(), kv="f32") as session:
        kv_evict.init(session.ctx, 8)
        rows = Rows(session.ctx)
        for begin, end in ((0, N), (N, N + 12), (N + 12, N + 24)):
            session.decode_each(tokens[begin:end], begin)
            rows.note_decoded()
            model.decode(tokens[begin:end], begin)
            compare(session, rows, model)
            keep = random_keep(model.positions(), 40, 16, rng)
            rows.evict(keep)
            model.evict(np.take_along_axis(keep, model.positions(), axis=2))


def compare(session: Session, rows: Rows, model: NumpyLlama) -> None:
    ids = kv_evict.cells(session.ctx, 0)[1]
    expected = model.attention[:, :, -8:].sum(axis=2)
    scores = kv_evict.scores(session.ctx, 0, 8, ids)
    order = rows.held[:, :, ids].argsort(axis=2)
    by_pos = np.take_along_axis(scores, order, axis=2)
    wanted = np.take_along_axis(expected, model.positions().argsort(axis=2), axis=2)
    assert np.abs(by_pos - wanted).max() < EXACT


def test_fewer_queries_than_asked_for(tiny: Tiny) -> None:
    with Session(tiny(), n_seq=2) as session:
        kv_evict.init(session.ctx, 8)
        refused(session, 1)
        session.decode(random_tokens(5), 0)
        assert kv_evict.n_queries(session.ctx, 0) == 5
        refused(session, 6)
        session.decode(random_tokens(50), 5)
        assert kv_evict.n_queries(session.ctx, 0) == 8
        refused(session, 9)
        refused(session, 1, seq=1)


def refused(session: Session, n_query: int, seq: int = 0) -> None:
    with pytest.raises(kv_evict.NativeError) as caught:
        kv_evict.scores(session.ctx, seq, n_query, np.zeros(1, np.int32))
    assert caught.value.status == kv_evict.QUERIES


def test_rollback_leaves_the_queries_before(tiny: Tiny) -> None:
    """Three tokens taken back: the rows of three old queries are lost, five are left."""
    tokens = random_tokens(N)
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 8)
        session.decode_each(tokens[:40], 0)
        expected = scored(session, 5)
        session.decode_each(tokens[40:43], 40)
        session.remove(40, -1)
        assert kv_evict.n_queries(session.ctx, 0) == 5
        assert np.array_equal(scored(session, 5), expected)


def test_forget(tiny: Tiny) -> None:
    with Session(tiny(), n_seq=2) as session:
        kv_evict.init(session.ctx, 8)
        for seq in (0, 1):
            session.decode(random_tokens(20), 0, seq)
        kv_evict.forget(session.ctx, 0)
        assert [kv_evict.n_queries(session.ctx, seq) for seq in (0, 1)] == [0, 8]
        session.decode([7], 20)
        assert kv_evict.n_queries(session.ctx, 0) == 1


def test_queries_that_no_cell_is_left_for(tiny: Tiny) -> None:
    """Of the window only the newest token is left: the other queries see nothing."""
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 8)
        session.decode(random_tokens(20), 0)
        remove_cells(session.ctx, range(19))
        assert kv_evict.n_queries(session.ctx, 0) == 1
        newest = np.array([19], np.int32)
        assert np.allclose(kv_evict.scores(session.ctx, 0, 1, newest), 4.0)
        refused(session, 2)


def test_a_token_of_two_sequences_is_nobodys_query(tiny: Tiny) -> None:
    shared: list[Any] = [(t, pos, (0, 1)) for pos, t in enumerate(random_tokens(20))]
    with Session(tiny(), n_seq=2) as session:
        kv_evict.init(session.ctx, 8)
        session.decode_batch(shared)
        assert [kv_evict.n_queries(session.ctx, seq) for seq in (0, 1)] == [0, 0]
        session.decode([7, 8], 20, seq=1)
        assert [kv_evict.n_queries(session.ctx, seq) for seq in (0, 1)] == [0, 2]
