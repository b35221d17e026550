"""Attention scores against the weights that llama.cpp itself computes without flash attention.

Without it these weights are added up while a token is decoded. Where that is the sum that is asked
for it is taken, otherwise the recorded queries are used, as they are with flash attention.
"""

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
from tests.native.state_bytes import parse

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


def n_summed(session: Session, seq: int = 0) -> int:
    return parse(kv_evict.state_get(session.ctx, seq)).n_summed


# without flash attention V can't be quantized
@pytest.mark.parametrize("kv", ["f32", "f16", "bf16", ("q8_0", "f16"), ("q4_0", "f16")], ids=str)
@pytest.mark.parametrize("n_head_kv", [1, 2, 4, 8])
@pytest.mark.parametrize("flash", [True, False])
def test_equal_the_softmax_of_the_plain_path(
    quiet: Tiny, n_head_kv: int, kv: Kv, flash: bool
) -> None:
    path = quiet(n_head_kv=n_head_kv)
    batches = [text()[:70], text()[70:]]
    expected = plain_path(path, batches, kv)
    with Session(path, kv=kv, flash=flash, n_ubatch=32) as session:
        kv_evict.init(session.ctx, 16)
        for batch in batches:
            session.decode_batch(batch)
        # ubatches of 6 and of 5 tokens after the larger ones
        assert n_summed(session) == (0 if flash else 11)
        for n_query in (11, 1, 8, 16):
            scores = scored(session, n_query)
            assert scores.shape == (2, n_head_kv, N)
            assert np.abs(scores - expected(n_query, 0)).max() < EXACT
            assert np.allclose(scores.sum(axis=2), n_query * 8 // n_head_kv, atol=1e-4)


@pytest.mark.parametrize(
    "shape",
    [{"n_expert": 4}, *({"arch": arch} for arch in ("qwen2", "qwen3", "phi3", "mistral3"))],
    ids=str,
)
@pytest.mark.parametrize("flash", [True, False])
def test_equal_the_softmax_in_other_architectures(
    quiet: Tiny, shape: dict[str, Any], flash: bool
) -> None:
    path = quiet(**shape)
    with Session(path, flash=flash, n_ubatch=32) as session:
        kv_evict.init(session.ctx, 16)
        session.decode_batch(text()[:64])
        session.decode_batch(text()[64:])
        expected = plain_path(path, [text()[:64], text()[64:]])
        assert n_summed(session) == (0 if flash else 11)
        assert np.abs(scored(session, 11) - expected(11, 0)).max() < EXACT


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


@pytest.mark.parametrize("flash", [True, False])
def test_a_window_is_the_sum_of_its_queries(tiny: Tiny, flash: bool) -> None:
    """So no query of a window sees a token after it."""
    tokens = random_tokens(N)
    with Session(tiny(), flash=flash) as session:
        kv_evict.init(session.ctx, 8)
        session.decode(tokens[:-8], 0)
        total = np.zeros((2, 2, N), np.float32)
        for pos in range(N - 8, N):
            session.decode([tokens[pos]], pos)
            total[:, :, : pos + 1] += scored(session, 1)
        window = scored(session, 8)
    assert np.abs(window - total).max() < 1e-5
    assert (window[:, :, -1] > 0).all()


@pytest.mark.parametrize("by_head", [False, True])
def test_blocks_of_queries_do_not_matter(tiny: Tiny, by_head: bool) -> None:
    """In a large cache fewer queries are scored at once; the last block is a smaller one."""
    path = tiny(n_embd=64, n_head=64, n_head_kv=4, head_dim=32, n_ff=64, n_layer=1)
    found = []
    for n_ctx in (256, 2048):
        with Session(path, n_ctx) as session:
            kv_evict.init(session.ctx, 40)
            session.decode(random_tokens(N), 0)
            ids = kv_evict.cells(session.ctx, 0)[1]
            found.append(kv_evict.scores(session.ctx, 0, 40, ids, by_head=by_head))
    assert np.allclose(found[0].sum(axis=2), 40 if by_head else 40 * 16, rtol=1e-5)
    assert np.abs(found[0] - found[1]).max() < EXACT


def test_ubatches_do_not_matter(quiet: Tiny) -> None:
    whole, split = (recorded(quiet(), n_ubatch) for n_ubatch in (512, 7))
    assert np.abs(whole - split).max() < EXACT


def recorded(path: Path, n_ubatch: int) -> F32:
    with Session(path, n_ubatch=n_ubatch) as session:
        kv_evict.init(session.ctx, 16)
        session.decode(random_tokens(N), 0)
        return scored(session, 16)


@pytest.mark.parametrize("flash", [True, False])
def test_order_and_choice_of_cells(tiny: Tiny, flash: bool) -> None:
    with Session(tiny(), flash=flash) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        session.decode(random_tokens(4), N)
        every = scored(session, 4)
        assert n_summed(session) == (0 if flash else 4)
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
@pytest.mark.parametrize("flash", [True, False])
def test_two_sequences_in_one_cache(quiet: Tiny, layout: str, flash: bool) -> None:
    batches = LAYOUTS[layout]
    expected = plain_path(quiet(), batches)
    with Session(quiet(), flash=flash, n_ubatch=32, n_seq=2) as session:
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


@pytest.mark.parametrize("flash", [True, False])
def test_after_evictions_by_head(quiet: Tiny, flash: bool) -> None:
    """Against the NumPy model with the same evictions, whose rows differ by head."""
    rng = np.random.default_rng(3)
    model = NumpyLlama(quiet())
    tokens = random_tokens(N + 24)
    with Session(quiet(), kv="f32", flash=flash) as session:
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


@pytest.mark.parametrize("flash", [True, False])
def test_rollback_leaves_the_queries_before(tiny: Tiny, flash: bool) -> None:
    """Three tokens taken back: the rows of three old queries are lost, five are left."""
    tokens = random_tokens(N)
    with Session(tiny(), flash=flash) as session:
        kv_evict.init(session.ctx, 8)
        session.decode_each(tokens[:40], 0)
        expected = scored(session, 5)
        session.decode_each(tokens[40:43], 40)
        session.remove(40, -1)
        assert kv_evict.n_queries(session.ctx, 0) == 5
        assert np.abs(scored(session, 5) - expected).max() < EXACT


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


def check_sums(session: Session, n_query: int, seq: int = 0) -> None:
    """Compare sums over a KV group with those of its query heads, which are computed anew."""
    last = int(kv_evict.cells(session.ctx, seq)[1].max())
    ids = np.arange((last // 256 + 1) * 256, dtype=np.int32)
    sums = kv_evict.scores(session.ctx, seq, n_query, ids)
    heads = kv_evict.scores(session.ctx, seq, n_query, ids, by_head=True)
    assert np.abs(sums - heads.reshape(2, 2, 4, ids.size).sum(axis=2)).max() < EXACT
    assert np.array_equal(kv_evict.scores(session.ctx, seq, n_query, ids), sums)


def test_what_is_summed(tiny: Tiny) -> None:
    """The queries since the last call that looked at them or moved rows, in a row of small ones."""
    tokens = random_tokens(200)
    with Session(tiny(), flash=False) as session:
        kv_evict.init(session.ctx, 16)
        rows = Rows(session.ctx)
        session.decode(tokens[:60], 0)
        assert n_summed(session) == 0
        session.decode_each(tokens[60:65], 60)
        session.decode(tokens[65:77], 65)
        assert n_summed(session) == 17
        session.decode_each(tokens[77:80], 77)
        check_sums(session, 16)  # not what is summed
        session.decode_each(tokens[80:83], 80)
        assert n_summed(session) == 3
        check_sums(session, 3)
        rows.note_decoded()
        rows.evict(random_keep(rows.held[:, :, :83], 40, 8, np.random.default_rng(1)))
        assert n_summed(session) == 0
        check_sums(session, 3)
        session.decode_each(tokens[83:87], 83)
        assert n_summed(session) == 4
        check_sums(session, 4)
        session.decode_each(tokens[87:89], 87)
        kv_evict.forget(session.ctx, 0)
        assert n_summed(session) == 0


def test_cells_that_left_are_not_summed(tiny: Tiny) -> None:
    """Nor are those that others take: their rows hold what the sequence before gave them."""
    tokens = random_tokens(400)
    with Session(tiny(), n_ctx=512, flash=False, n_seq=2) as session:
        kv_evict.init(session.ctx, 8)
        session.decode(tokens[:20], 0, seq=1)
        session.decode_each(tokens[:300], 0)
        check_sums(session, 8)
        session.remove(-1, -1)
        session.decode_each(tokens[:6], 0)
        assert n_summed(session) == 6
        check_sums(session, 6)
        session.decode_each(tokens[6:9], 6)
        session.remove(2, 4)  # what is left sums up to one again
        check_sums(session, 3)
        session.decode_each(tokens[9:11], 9)
        check_sums(session, 2)
        session.decode_each(tokens[11:13], 11)
        session.remove(12, -1)
        check_sums(session, 1)
        session.decode_each(tokens[12:14], 12)
        session.decode_each(tokens[20:25], 20, seq=1)
        session.decode_each(tokens[14:16], 14)
        assert [n_summed(session, seq) for seq in (0, 1)] == [4, 5]
        check_sums(session, 4)
        check_sums(session, 5, seq=1)


def test_a_sum_while_the_cache_grows(tiny: Tiny) -> None:
    """The graph is built anew where more cells are attended to than before."""
    tokens = random_tokens(300)
    with Session(tiny(), n_ctx=512, flash=False) as session:
        kv_evict.init(session.ctx, 8)
        session.decode_each(tokens, 0)  # rows that reach beyond 256 cells
        check_sums(session, 8)
        session.remove(-1, -1)
        session.decode(tokens[:252], 0)
        session.decode_each(tokens[252:260], 252)
        assert n_summed(session) == 4
        check_sums(session, 4)
        session.remove(-1, -1)
        session.decode(tokens[:252], 0)
        session.decode_each(tokens[252:260], 252)
        check_sums(session, 8)


def test_a_sum_where_the_other_sequence_grew(tiny: Tiny) -> None:
    tokens = random_tokens(300)
    with Session(tiny(), n_ctx=512, flash=False, n_seq=2) as session:
        kv_evict.init(session.ctx, 8)
        session.decode_each(tokens, 0)
        session.remove(-1, -1)
        session.decode_each(tokens[:5], 0)
        session.decode(tokens[:290], 0, seq=1)
        assert n_summed(session) == 5
        scores = scored(session, 5)
        assert (scores[:, :, 5:] == 0).all()
        assert np.allclose(scores.sum(axis=2), 5 * 4)


@pytest.mark.parametrize("n_tokens", [1, 10])
def test_a_sum_whose_tokens_were_replaced(tiny: Tiny, n_tokens: int) -> None:
    """By a batch of two sequences, or one that is too large to be summed."""
    tokens = random_tokens(60)
    seqs = (0, 1) if n_tokens == 1 else (0,)
    others: list[Token] = [
        (t, 20 + i, (s,)) for i, t in enumerate(tokens[40:][:n_tokens]) for s in seqs
    ]
    with Session(tiny(), flash=False, n_seq=2) as session:
        kv_evict.init(session.ctx, 8)
        for seq in (0, 1):
            session.decode(tokens[:20], 0, seq)
        session.decode_each(tokens[20 : 20 + n_tokens], 20)
        check_sums(session, min(n_tokens, 8))
        session.remove(20, -1)
        session.decode_batch(others)
        assert n_summed(session) == 0
        check_sums(session, min(n_tokens, 8))


@pytest.mark.parametrize("seed", range(4))
def test_random_calls_on_two_sequences(tiny: Tiny, seed: int) -> None:
    """Whatever happens between the queries, sums are those of the queries."""
    rng = np.random.default_rng(seed)
    n_served = 0
    with Session(tiny(), n_ctx=512, flash=False, n_seq=2) as session:
        kv_evict.init(session.ctx, 8)
        for _ in range(150):
            seq = int(rng.integers(2))
            if 0 < session.last_pos(seq) < 200:
                make_random_call(session, seq, rng)
            else:
                session.remove(-1, -1, seq)
                session.decode(random_tokens(int(rng.integers(1, 60))), 0, seq)
            if rng.random() < 0.3 and (n := kv_evict.n_queries(session.ctx, seq)):
                n_sum = n_summed(session, seq)
                n_served += 0 < n_sum <= n
                check_sums(session, n_sum if 0 < n_sum <= n else n, seq)
    assert n_served > 5


def make_random_call(session: Session, seq: int, rng: np.random.Generator) -> None:
    n_past = session.last_pos(seq) + 1
    ids = kv_evict.cells(session.ctx, seq)[1]
    tokens = random_tokens(20, n_past)
    call = rng.choice(["one by one", "batch", "move", "take back", "clear a cell", "load"])
    if call == "one by one":
        session.decode_each(tokens[: rng.integers(1, 6)], n_past, seq)
    elif call == "batch":
        session.decode(tokens[: rng.integers(1, 20)], n_past, seq)
    elif call == "move" and ids.size > 10:
        src, dst = (
            np.ascontiguousarray(np.broadcast_to(rng.permutation(ids[:10])[:3], (2, 2, 3)))
            for _ in range(2)
        )
        kv_evict.apply(session.ctx, seq, src, dst, ids[10:][: rng.integers(2)])
    elif call == "take back":
        session.remove(max(1, n_past - int(rng.integers(1, 3))), -1, seq)
    elif call == "clear a cell":
        session.remove(n_past // 2, n_past // 2 + 1, seq)
    elif call == "load":
        kv_evict.state_set(session.ctx, seq, kv_evict.state_get(session.ctx, seq))


def test_a_deep_model_has_room_for_the_sums(tiny: Tiny) -> None:
    # llama.cpp sizes its graph by the tensors of the model: the sums of a whole batch would not fit
    path = tiny(n_layer=40)
    with Session(path, flash=False, n_ubatch=128) as session:
        kv_evict.init(session.ctx, 128)
        session.decode_batch(text(123))
        ids = kv_evict.cells(session.ctx, 0)[1]
        found = kv_evict.scores(session.ctx, 0, 123, ids)
        n_gqa = kv_evict.n_head(session.ctx) // kv_evict.n_head_kv(session.ctx)
        np.testing.assert_allclose(found.sum(axis=2), 123 * n_gqa, rtol=1e-4)
