"""The graphs have room for what they come to: many layers, large groups of heads, long windows.

ggml ends the process where a graph has no room for a node.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scope_cpp.native import kv_evict
from scope_cpp.reference.numpy_llama import NumpyLlama
from tests.conftest import Tiny
from tests.native.harness import Session, random_tokens

SMALL = {"head_dim": 16, "n_ff": 32}
SHAPES: dict[str, dict[str, Any]] = {
    "32 layers, 8 query heads to a KV head": {"n_layer": 32, "n_head": 16, **SMALL},
    # phi3 has six tensors to a layer, and llama.cpp makes room for nodes by the tensors
    "few tensors to a layer": {
        "arch": "phi3",
        "n_layer": 40,
        "n_head": 12,
        "n_head_kv": 4,
        **SMALL,
    },
    "one KV head": {"arch": "phi3", "n_layer": 40, "n_head": 32, "n_head_kv": 1, **SMALL},
    # 71 is odd at most of its halvings
    "an odd group": {"n_layer": 12, "n_head": 71, "n_head_kv": 1, "n_embd": 64, **SMALL},
    "127 to a KV head": {"n_layer": 3, "n_head": 127, "n_head_kv": 1, "n_embd": 64, **SMALL},
    "many layers": {"n_layer": 200, "n_head": 4, "n_head_kv": 4, "n_embd": 32, **SMALL},
}


@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_graph(tiny: Tiny, shape: str, flash: bool) -> None:
    """Of sums of 15 tokens while decoding, of scores, moves, rows, queries and likeness."""
    fields = SHAPES[shape]
    group = fields["n_head"] // fields.get("n_head_kv", 2)
    with Session(tiny(**fields), flash=flash, n_seq=2) as session:
        ctx = session.ctx
        kv_evict.init(ctx, 127)
        session.decode(random_tokens(112), 0)
        session.decode(random_tokens(15, seed=6), 112)
        ids = kv_evict.cells(ctx, 0)[1]
        # a dead row changes the graphs
        dead = np.zeros((kv_evict.n_layer(ctx), ids.size), np.bool_)
        dead[0, 3] = True
        for hidden in (False, True):
            if hidden:
                kv_evict.set_dead(ctx, 0, ids, dead)
                session.decode(random_tokens(15, seed=7), 127)
                ids = kv_evict.cells(ctx, 0)[1]
            for n_query in (127, 63, 15):
                by_group = kv_evict.scores(ctx, 0, n_query, ids).sum(axis=2)
                assert np.allclose(by_group, n_query * group, rtol=1e-4)
                by_head = kv_evict.scores(ctx, 0, n_query, ids, by_head=True).sum(axis=2)
                assert np.allclose(by_head, n_query, rtol=1e-4)
            assert np.isfinite(kv_evict.queries(ctx, 0, 63, 500)).all()
            for values in (False, True):
                assert np.isfinite(kv_evict.rows(ctx, 0, ids, values=values)).all()
            likeness = kv_evict.likeness(ctx, 0, ids, 40, value_weight=0.5)
            assert ((likeness > -1) & (likeness < 1.001)).all()
        shape = kv_evict.n_layer(ctx), kv_evict.n_head_kv(ctx), 7
        src, dst = (np.broadcast_to(ids[i : i + 7], shape).copy() for i in (0, 7))
        kv_evict.apply(ctx, 0, src, dst, ids[:7].copy())
        assert kv_evict.n_used(ctx) == 142 - 7


@pytest.mark.parametrize(("flash", "n_layer"), [(True, 32), (False, 4)])
def test_a_window_of_thousands_of_queries(tiny: Tiny, flash: bool, n_layer: int) -> None:
    """The scores' own graph has as many nodes for a layer whichever attention the model has."""
    fields = {"n_layer": n_layer, "n_head": 8, "n_head_kv": 1, "n_ctx_train": 4096, **SMALL}
    with Session(tiny(**fields), 2304, flash=flash) as session:
        kv_evict.init(session.ctx, 2047)
        session.decode(random_tokens(2048), 0)
        ids = kv_evict.cells(session.ctx, 0)[1]
        scores = kv_evict.scores(session.ctx, 0, 2047, ids)
        assert np.allclose(scores.sum(axis=2), 2047 * 8, rtol=1e-4)


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("n_query", [64, 65, 128, 190])
def test_a_long_window_is_that_of_the_numpy_model(tiny: Tiny, n_query: int, by_head: bool) -> None:
    """Its queries are gone through in several goes."""
    path = tiny(peaky=1.0)
    model = NumpyLlama(path, kv_dtype=np.float16)
    model.decode(random_tokens(200), 0)
    seen = model.attention_by_head if by_head else model.attention
    expected = seen[:, :, -n_query:].sum(axis=2)
    with Session(path) as session:
        kv_evict.init(session.ctx, 190)
        session.decode(random_tokens(200), 0)
        ids = kv_evict.cells(session.ctx, 0)[1]
        scores = kv_evict.scores(session.ctx, 0, n_query, ids, by_head=by_head)
        # as test_scores.ROUNDED, for more queries; sums are up to 4 * 190
        assert np.abs(scores - expected).max() < 5e-3
