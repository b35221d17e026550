"""What is evicted counts no more, what is kept counts as before, and the room is used again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.native import kv_evict
from scope_cpp.reference.numpy_llama import NumpyLlama
from tests.conftest import Tiny
from tests.native.harness import CACHES, Session, error, random_tokens
from tests.native.heads import Rows, random_keep, remove_cells

F32 = npt.NDArray[np.float32]

N = 100

# of logits, relative to the largest, against NumPy. The fused attention of the CPU rounds to f16
# also where the cache is f32; the noise of a q8_0 cache is that of its quantization.
TOLERANCE = {"f32": 3e-3, "f16": 3e-3, "q8_0": 1.7e-2}

# the plain attention in an f32 cache computes in f32 throughout
PLAIN_TOLERANCE = 2e-5

DENSE: list[dict[str, Any]] = [
    *({"arch": arch} for arch in ("llama", "qwen2", "qwen3", "phi3", "mistral3")),
    {"n_head_kv": 1},
    {"n_head_kv": 8, "n_layer": 3},
]
# noise that changes a choice of experts is not small, so these take the types with little of it
EXPERTS = {"n_expert": 4}


# a few cells only: then llama.cpp does not search the cache from its beginning anyway
@pytest.mark.parametrize("spans", [[(10, 40), (90, 95)], [(50, 51)], [(60, 61), (20, 21)]], ids=str)
@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_removing_cells_is_what_llama_cpp_does(
    tiny: Tiny, cache: dict[str, Any], spans: list[tuple[int, int]]
) -> None:
    """Bit by bit, the cells that later tokens take included."""
    tokens = random_tokens(N + 40)
    with Session(tiny(), **cache) as ours, Session(tiny(), **cache) as stock:
        kv_evict.init(ours.ctx, 4)
        for session in (ours, stock):
            session.decode(tokens[:N], 0)
        for begin, end in spans:
            remove_cells(ours.ctx, range(begin, end))
            stock.remove(begin, end)
        assert_same_cells(ours, stock)
        logits = [s.decode_each(tokens[N:], N) for s in (ours, stock)]
        assert np.array_equal(logits[0], logits[1])
        assert_same_cells(ours, stock)


def assert_same_cells(one: Session, other: Session) -> None:
    for a, b in zip(kv_evict.cells(one.ctx, 0), kv_evict.cells(other.ctx, 0), strict=True):
        assert np.array_equal(a, b)


def test_removed_cells_are_free(tiny: Tiny) -> None:
    tokens = random_tokens(N + 30)
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(tokens[:N], 0)
        gone = [3, 4, 5, *range(20, 37)]
        remove_cells(session.ctx, gone)
        pos, ids, _ = kv_evict.cells(session.ctx, 0)
        assert kv_evict.n_used(session.ctx) == N - len(gone) == len(pos)
        assert not set(gone) & set(pos.tolist())
        session.decode_each(tokens[N:], N)
        pos, ids, _ = kv_evict.cells(session.ctx, 0)
        assert set(ids[pos >= N][: len(gone)].tolist()) == set(gone)
        assert session.last_pos() == N + 29
        assert kv_evict.n_used(session.ctx) == N - len(gone) + 30
        assert kv_evict.n_cells(session.ctx) == 256


def logits_after_eviction(
    path: Path, kv: str, flash: bool = True
) -> tuple[F32, npt.NDArray[Any], F32]:
    """Logits after an eviction by head, of llama.cpp and of NumPy, and without eviction."""
    tokens = random_tokens(N + 40)
    model = NumpyLlama(path, kv_dtype=np.float32 if kv == "f32" else np.float16)
    model.decode(tokens[:N], 0)
    keep = random_keep(model.positions(), 40, 8, np.random.default_rng(1))
    model.evict(keep)
    with Session(path, kv=kv, flash=flash) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(tokens[:N], 0)
        rows = Rows(session.ctx)
        rows.note_decoded()
        rows.evict(keep)
        logits = session.decode_each(tokens[N:], N)
    with Session(path, kv=kv, flash=flash) as session:
        session.decode(tokens[:N], 0)
        untouched = session.decode_each(tokens[N:], N)
    expected = np.concatenate([model.decode([t], N + i) for i, t in enumerate(tokens[N:])])
    return logits, expected, untouched


@pytest.mark.parametrize(("kv", "flash"), [("f32", True), ("f16", True), ("f32", False)])
@pytest.mark.parametrize("shape", [*DENSE, EXPERTS], ids=str)
def test_eviction_by_head_equals_the_numpy_model(
    tiny: Tiny, shape: dict[str, Any], kv: str, flash: bool
) -> None:
    logits, expected, untouched = logits_after_eviction(tiny(**shape), kv, flash)
    assert error(logits, expected) < (TOLERANCE[kv] if flash else PLAIN_TOLERANCE)
    assert error(untouched, expected) > 0.1


@pytest.mark.parametrize("shape", DENSE, ids=str)
def test_eviction_by_head_in_a_quantized_cache(tiny: Tiny, shape: dict[str, Any]) -> None:
    logits, expected, untouched = logits_after_eviction(tiny(peaky=2.0, **shape), "q8_0")
    assert error(logits, expected) < TOLERANCE["q8_0"]
    assert error(untouched, expected) > 0.1


# after 500 tokens, as measured on the prototype
LONG_TOLERANCE = {"f16": 3e-3, "q8_0": 2.9e-2}


@pytest.mark.parametrize(("kv", "flash"), [("f16", True), ("q8_0", True), ("f16", False)])
def test_decoding_beyond_the_cells(tiny: Tiny, kv: str, flash: bool) -> None:
    """500 tokens in 128 of 256 cells, with an eviction by head at every 16th."""
    tokens = random_tokens(N + 512)
    rng = np.random.default_rng(2)
    model = NumpyLlama(tiny(), kv_dtype=np.float16)
    with Session(tiny(), kv=kv, flash=flash) as session:
        kv_evict.init(session.ctx, 4)
        rows = Rows(session.ctx)
        session.decode(tokens[:N], 0)
        model.decode(tokens[:N], 0)
        for pos in range(N, len(tokens), 16):
            rows.note_decoded()
            keep = random_keep(model.positions(), 90, 30, rng)
            rows.evict(keep)
            model.evict(np.take_along_axis(keep, model.positions(), axis=2))
            assert kv_evict.n_used(session.ctx) == 90
            step = tokens[pos : pos + 16]
            logits, expected = session.decode_each(step, pos), model.decode(step, pos)
            assert session.last_pos() == pos + 15
        ids = kv_evict.cells(session.ctx, 0)[1]
    assert pos > 2 * 256
    assert ids.max() < 128
    assert error(logits, expected) < LONG_TOLERANCE[kv]


@pytest.mark.parametrize("flash", [True, False])
def test_rollback_inside_the_window(tiny: Tiny, flash: bool) -> None:
    """Tokens decoded after an eviction can be taken back and decoded again, bit by bit."""
    tokens = random_tokens(N + 20)
    with Session(tiny(), flash=flash) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(tokens[:N], 0)
        rows = Rows(session.ctx)
        rows.note_decoded()
        rows.evict(random_keep(rows.held[:, :, :N], 40, 8, np.random.default_rng(1)))
        first = session.decode_each(tokens[N:], N)
        session.remove(N + 5, -1)
        assert session.last_pos() == N + 4
        assert np.array_equal(session.decode_each(tokens[N + 5 :], N + 5), first[5:])


def test_counts_without_init(tiny: Tiny) -> None:
    with Session(tiny(n_head_kv=4, n_layer=3), n_ctx=300) as session:
        session.decode(random_tokens(12), 0)
        ctx = session.ctx
        counts = [f(ctx) for f in (kv_evict.n_layer, kv_evict.n_head_kv, kv_evict.n_used)]
        assert counts == [3, 4, 12]
        assert kv_evict.n_cells(ctx) == 512  # as llama.cpp rounds it up
        assert kv_evict.n_bytes(ctx) == 512 * 3 * 2 * 4 * 64 * 2
        pos, ids, shared = kv_evict.cells(ctx, 0)
        assert pos.tolist() == list(range(12)) == ids.tolist()
        assert not shared.any()
