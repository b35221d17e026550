"""The rows of K and V that a policy sees are those that lie in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from scope_cpp.native import kv_evict
from scope_cpp.reference.numpy_llama import NumpyLlama
from tests.conftest import Tiny
from tests.native.harness import CACHES, KV_TYPES, Session, random_tokens
from tests.native.heads import Rows, random_keep
from tests.native.state_bytes import State, parse

N = 150  # more than are read at once
ARGUMENT = -21


def floats(raw: npt.NDArray[Any], kind: str) -> npt.NDArray[np.float32]:
    """Bytes of rows as gguf-py reads them."""
    data = np.ascontiguousarray(raw)
    return dequantize(data.view(np.uint8), GGMLQuantizationType(KV_TYPES[kind]))


def stored(state: State, kinds: tuple[str, str], values: bool) -> npt.NDArray[np.float32]:
    """Rows of a saved sequence, (layer, KV head, cell, head size)."""
    layers = state.v if values else state.k
    kind = kinds[values]
    sizes = {"f32": np.float32, "f16": np.float16}
    if kind in sizes:
        rows = [np.ascontiguousarray(layer).view(sizes[kind]) for layer in layers]
    elif kind == "bf16":
        words = [np.ascontiguousarray(layer).view(np.uint16) for layer in layers]
        rows = [(word.astype(np.uint32) << 16).view(np.float32) for word in words]
    else:
        rows = [floats(layer, kind) for layer in layers]
    return np.stack([row.astype(np.float32).swapaxes(0, 1) for row in rows])


@pytest.mark.parametrize("cache", CACHES, ids=str)
@pytest.mark.parametrize("values", [False, True])
def test_rows_are_those_of_the_cache(tiny: Tiny, cache: dict[str, Any], values: bool) -> None:
    """By the bytes of the saved cells, after per-head moves too."""
    kinds = cache["kv"] if isinstance(cache["kv"], tuple) else (cache["kv"], cache["kv"])
    rng = np.random.default_rng(3)
    with Session(tiny(), **cache) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        held = Rows(session.ctx)
        held.note_decoded()
        for _ in range(2):
            state = parse(kv_evict.state_get(session.ctx, 0))
            rows = kv_evict.rows(session.ctx, 0, state.cells, values=values)
            assert np.array_equal(rows, stored(state, kinds, values))
            some = state.cells[[7, 2, 2, 20]]
            part = kv_evict.rows(session.ctx, 0, some, values=values)
            assert np.array_equal(part, rows[:, :, [7, 2, 2, 20]])
            _, ids, _ = kv_evict.cells(session.ctx, 0)
            held.evict(random_keep(held.held[:, :, ids], N // 2, 5, rng))


@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("head_dim", [32, 64])
def test_rows_are_those_of_the_model(tiny: Tiny, head_dim: int, flash: bool) -> None:
    """K after RoPE, V as it is, by the NumPy model; in each head those of its own tokens."""
    path = tiny(head_dim=head_dim)
    tokens = random_tokens(N)
    numpy = NumpyLlama(path)
    numpy.decode(tokens, 0)
    with Session(path, kv="f32", flash=flash) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(tokens, 0)
        held = Rows(session.ctx)
        held.note_decoded()
        held.evict(random_keep(held.held[:, :, :N], N // 2, 5, np.random.default_rng(4)))
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        at = held.held[:, :, ids][..., None]
        for values, expected in ((False, numpy.k), (True, numpy.v)):
            rows = kv_evict.rows(session.ctx, 0, ids, values=values)
            assert rows.shape[-1] == kv_evict.head_size(session.ctx, values=values) == head_dim
            wanted = np.take_along_axis(np.stack(expected), at, axis=2)
            assert np.abs(rows - wanted).max() < 2e-3 * np.abs(wanted).max()


def test_rotated_rows_keep_lengths_and_angles(tiny: Tiny) -> None:
    """q8_0 with heads of 64 is rotated before it is stored."""
    path = tiny(head_dim=64)
    tokens = random_tokens(N)
    products = {}
    for kv in ("f32", "q8_0"):
        with Session(path, kv=kv) as session:
            kv_evict.init(session.ctx, 4)
            session.decode(tokens, 0)
            _, ids, _ = kv_evict.cells(session.ctx, 0)
            # what one layer reads, the others not: quantized values change the layers after it
            products[kv] = kv_evict.rows(session.ctx, 0, ids)[0]
    assert np.abs(products["f32"] - products["q8_0"]).max() > 0.1 * np.abs(products["f32"]).max()
    angles = [k @ k.swapaxes(1, 2) for k in products.values()]
    assert np.abs(angles[0] - angles[1]).max() < 0.02 * np.abs(angles[0]).max()


def test_bad_cells_are_refused(tiny: Tiny) -> None:
    with Session(tiny(), n_seq=2) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        session.decode(random_tokens(5), 0, seq=1)
        for bad in (-1, N + 5, 256, N):  # N is a cell of the other sequence
            with pytest.raises(kv_evict.NativeError) as caught:
                kv_evict.rows(session.ctx, 0, np.array([0, bad], np.int32))
            assert caught.value.status == ARGUMENT
        assert kv_evict.rows(session.ctx, 0, np.zeros(0, np.int32)).shape[2] == 0
