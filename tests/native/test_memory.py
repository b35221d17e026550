"""Every byte that a context holds is counted, known before it is allocated, and stays the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scope_cpp.engine.context import Context
from scope_cpp.engine.context_params import ContextParams
from scope_cpp.engine.model import Model
from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.native.harness import KV_TYPES, random_tokens

Held = dict[str, tuple[int, int]]

WINDOW, N_MOVE = 48, 32
# larger than the others, so that blocks of queries are smaller than the window
SHAPE = {"n_embd": 64, "n_head": 64, "n_head_kv": 4, "head_dim": 32, "n_ff": 64, "n_layer": 1}
CONTEXTS: list[dict[str, Any]] = [
    {"n_cells": 1024, "flash_attn": "on"},
    {"n_cells": 1024, "flash_attn": "off", "n_ubatch": 128},
    {"n_cells": 2048, "flash_attn": "on"},
    {"n_cells": 2048, "flash_attn": "off", "n_ubatch": 128},
    {"n_cells": 512, "flash_attn": "on", "type_k": KV_TYPES["q8_0"], "type_v": KV_TYPES["q4_0"]},
    {"n_cells": 512, "flash_attn": "on", "n_seq_max": 6, "n_slots": 2},
    {"n_cells": 512, "flash_attn": "off", "n_seq_max": 6, "n_slots": 2},
]


def needs(by_head: bool = False) -> kv_evict.Needs:
    return kv_evict.Needs(
        n_scores=WINDOW,
        by_head=by_head,
        dead=True,
        n_queries=WINDOW,
        n_move=N_MOVE,
        keys=True,
        values=True,
        likeness=True,
    )


def holds(context: Context) -> Held:
    """What a context that can be asked everything holds."""
    context.record_queries(WINDOW)
    kv_evict.reserve(context.ptr, needs())
    return kv_evict.memory(context.ptr)


def use_all(context: Context) -> None:
    """Fill the cache, in batches and token by token, and make every call at its largest."""
    ptr, n = context.ptr, context.n_cells
    for pos in range(0, n - 20, 500):
        context.decode(random_tokens(min(500, n - 20 - pos)), pos)
    for i, token in enumerate(random_tokens(20)):
        context.decode([token], n - 20 + i)
    ids = kv_evict.cells(ptr, 0)[1]
    kv_evict.queries(ptr, 0, WINDOW, n + 100)
    kv_evict.scores(ptr, 0, WINDOW, ids)
    kv_evict.rows(ptr, 0, ids)
    kv_evict.rows(ptr, 0, ids, values=True)
    kv_evict.likeness(ptr, 0, ids, 100, value_weight=0.5)
    n_layer, n_head_kv = kv_evict.n_layer(ptr), kv_evict.n_head_kv(ptr)
    shape = n_layer, n_head_kv, N_MOVE
    src = np.broadcast_to(ids[-N_MOVE:], shape).copy()
    dst = np.broadcast_to(ids[:N_MOVE], shape).copy()
    kv_evict.apply(ptr, 0, src, dst, ids[100:110].copy())
    ids = kv_evict.cells(ptr, 0)[1]
    dead = np.zeros((n_layer, ids.size), np.bool_)
    dead[0, 5] = True
    kv_evict.set_dead(ptr, 0, ids, dead)
    kv_evict.scores(ptr, 0, WINDOW, ids)
    context.decode([3], n)


@pytest.mark.parametrize("params", CONTEXTS, ids=str)
def test_known_before_and_the_same_after(tiny: Tiny, params: dict[str, Any]) -> None:
    """What would be allocated is what is, and no call ever takes more."""
    path = tiny(**SHAPE | {"head_dim": 64} if "type_k" in params else SHAPE)
    made = ContextParams(**params, n_threads=1)
    with Model.load(path, no_alloc=True) as model, Context(model, made) as context:
        expected = holds(context)
    with Model.load(path) as model, Context(model, made) as context:
        assert holds(context) == expected
        assert expected["beside"] == (0, 0)
        others = [expected[kind] for kind in expected if kind != "beside"]
        assert all(host > 0 and device == 0 for host, device in others)
        assert expected["cells"][0] == kv_evict.n_bytes(context.ptr)
        use_all(context)
        assert kv_evict.memory(context.ptr) == expected


def test_few_cells_of_many_are_gathered(tiny: Tiny) -> None:
    """A sequence with few of the cells is scored another way, in the same memory."""
    with Model.load(tiny(**SHAPE)) as model:
        params = ContextParams(2048, flash_attn="on", n_seq_max=2, n_threads=1)
        with Context(model, params) as context:
            before = holds(context)
            context.decode(random_tokens(1300), 0, 0)
            context.decode(random_tokens(300), 0, 1)
            ids = kv_evict.cells(context.ptr, 1)[1]
            kv_evict.scores(context.ptr, 1, WINDOW, ids)
            kv_evict.likeness(context.ptr, 1, ids, 40, value_weight=0.5)
            assert kv_evict.memory(context.ptr) == before


def test_a_ring_for_what_is_written_not_for_what_rests(tiny: Tiny) -> None:
    """One more sequence takes nothing, one more slot takes a ring."""
    row = 4 * SHAPE["n_head"] * SHAPE["head_dim"] * SHAPE["n_layer"]
    taken = {}
    with Model.load(tiny(**SHAPE), no_alloc=True) as model:
        for n_seq, n_slots in ((12, 4), (20, 4), (12, 5), (12, 12), (12, 0)):
            params = ContextParams(256, flash_attn="on", n_seq_max=n_seq, n_slots=n_slots)
            with Context(model, params) as context:
                context.record_queries(WINDOW)
                taken[n_seq, n_slots] = kv_evict.memory(context.ptr)["queries"][0]
    assert taken[12, 4] == taken[20, 4] == row * (4 * WINDOW + 1)
    assert taken[12, 5] - taken[12, 4] == row * WINDOW
    assert taken[12, 12] == taken[12, 0] == row * (12 * WINDOW + 1)


def test_logits_of_one_token_for_each_sequence(tiny: Tiny) -> None:
    """Not of all tokens of a batch, which would be the most where the vocabulary is large."""
    sizes = {}
    shape = {"n_embd": 32, "n_head": 1, "n_head_kv": 1, "head_dim": 32, "n_ff": 32}
    with Model.load(tiny(**shape), no_alloc=True) as model:
        for n_seq in (1, 3):
            with Context(model, ContextParams(256, flash_attn="on", n_seq_max=n_seq)) as context:
                sizes[n_seq] = kv_evict.memory(context.ptr)
        n_vocab = model.n_vocab
    assert sizes[1]["output"][0] == 4 * n_vocab
    assert sizes[3]["output"][0] == 3 * 4 * n_vocab
    # llama.cpp's own default, logits of a whole batch, would be the most of it
    assert sizes[1]["compute"][0] < 4 * n_vocab * 256


def test_nothing_reserved_without_need(tiny: Tiny) -> None:
    with Model.load(tiny()) as model, Context(model, ContextParams(256)) as context:
        assert kv_evict.memory(context.ptr)["queries"] == (0, 0)
        context.record_queries(4)
        kv_evict.reserve(context.ptr, kv_evict.Needs())
        assert kv_evict.memory(context.ptr)["scratch"] == (0, 0)
