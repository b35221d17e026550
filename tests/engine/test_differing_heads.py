"""The engine on models whose layers have different numbers of heads, or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.forecast import Forecast
from scope_cpp.engine.inspect import describe, examine
from scope_cpp.engine.kv_types import bytes_per_cell
from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict
from tests.architectures.memories import DIFFERING
from tests.conftest import Tiny
from tests.engine.drive import random_tokens
from tests.engine.rows import alone, engine, request, run, tokens_of
from tests.engine.talk import WORDS, check_goes_on_after_saving, converse, holds, same, say
from tests.engine.test_memories import generation, written

every_arch = pytest.mark.parametrize("arch", DIFFERING)
KV_HEADS = {"deci-pruned": {0: 2, 1: 4, 3: 1, 5: 2}, "openelm-growing": {0: 1, 1: 2, 2: 2, 3: 3}}
# scores, values, keys, queries asked again, layers of different sizes, one choice for all
FAMILIES: list[dict[str, Any]] = [
    {},
    {"policy": "scope-foresight", "options": ("interval=auto",)},
    {"policy": "h2o"},
    {"policy": "vatp"},
    {"policy": "r-kv"},
    {"policy": "g-kv"},
    {"policy": "scope-slide", "prefill": "snapkv"},
    {"policy": "scope-slide", "prefill": "pyramidkv"},
    {"policy": "h2o", "granularity": "cell"},
    {"policy": "scope-foresight", "granularity": "cell"},
    {"policy": "streaming-llm"},
]
# one way to lay out V for each of the two models, and the other one where V is read
CASES = [
    *(("deci-pruned", "on", fields) for fields in FAMILIES),
    *(("openelm-growing", "off", fields) for fields in FAMILIES),
    *(("deci-pruned", "off", fields) for fields in ({}, {"policy": "vatp"})),
    *(("openelm-growing", "on", fields) for fields in ({}, {"policy": "vatp"})),
]


@pytest.fixture
def model(tiny_arch: Tiny, arch: str) -> Iterator[Model]:
    with Model.load(tiny_arch(arch=arch)) as model:
        yield model


@pytest.mark.parametrize(("arch", "flash_attn", "fields"), CASES, ids=lambda value: str(value)[:60])
def test_many_tokens_in_few_cells(
    model: Model, arch: str, flash_attn: str, fields: dict[str, Any]
) -> None:
    """llama.cpp is asked after every token; doubles hold what their originals hold."""
    n = 200 if fields or arch != "deci-pruned" or flash_attn == "off" else 2000
    with generation(model, 90, n, budget=130, flash_attn=flash_attn, **fields) as made:
        ptr = made.context.ptr
        own = kv_evict.own_heads(ptr)[:, 1:]
        originals = (np.arange(kv_evict.n_head_kv(ptr)) % own)[:, :, None]
        for response in made:
            assert kv_evict.n_used(ptr) == response.stats.cells_used <= 130
            if response.stats.n_generated % 5 == 0:
                pos = made.cache.positions()
                assert np.array_equal(pos, np.take_along_axis(pos, originals, axis=1))
        assert made.context.n_cells == 256
        assert response.stats.n_generated == n
        assert response.stats.evicted >= n - 45
        assert pos.shape[0] == len(model.cell_layers) and pos.max() == 90 + n - 2


@every_arch
def test_where_all_fits_it_is_the_full_cache(model: Model) -> None:
    full = written(generation(model, 90, 60, policy="full"))
    for fields in ({}, {"policy": "h2o", "granularity": "cell"}):
        assert written(generation(model, 90, 60, budget=200, **fields)) == full


@every_arch
def test_memory_is_that_of_the_layers_own_heads(model: Model, arch: str) -> None:
    assert {one.layer: one.n_head_kv for one in model.cell_layers} == KV_HEADS[arch]
    assert bytes_per_cell(model) == sum(KV_HEADS[arch].values()) * 2 * 32 * 2
    settings = Settings(budget=100, n_threads=1, n_threads_batch=1, flash_attn="on")
    with Forecast(model) as forecast:
        found = forecast.of_run(settings, 100, bounded=True)
    with generation(model, 90, 200, budget=100, flash_attn="on") as made:
        *_, last = made
        assert last.stats.kv_bytes == found.kv == 256 * bytes_per_cell(model)
        assert last.stats.memory_bytes <= found.total
        assert found.kv + found.fixed == kv_evict.n_bytes(made.context.ptr)


@every_arch
def test_inspect_tells_the_layers_that_are_bounded(model: Model, arch: str) -> None:
    found = examine(model.path, ctx_size=512)
    told = dict(describe(found))
    assert found.bounded_layers == tuple(KV_HEADS[arch])
    assert told["bounded cache"].startswith("yes")
    for flash_attn in ("on", "off"):
        per_cell = examine(model.path, ctx_size=512, flash_attn=flash_attn).bytes_per_cell
        with generation(model, 90, 20, budget=100, flash_attn=flash_attn) as made:
            *_, last = made
        assert last.stats.kv_bytes == 256 * per_cell


@every_arch
@pytest.mark.parametrize("policy", [None, "h2o"])
def test_a_saved_conversation_goes_on(
    tiny_arch: Tiny, tmp_path: Path, arch: str, policy: str | None
) -> None:
    budget = 120
    check_goes_on_after_saving(tiny_arch(arch=arch), budget, tmp_path / "session", policy)


@every_arch
def test_going_back_is_as_if_it_had_never_been(tiny_arch: Tiny, arch: str) -> None:
    fields: dict[str, Any] = {"n_predict": 50, "policy": None}
    path = tiny_arch(arch=arch)
    with converse(path, 120, **fields) as talk:
        for text in WORDS[:4]:
            say(talk, text)
        talk.undo()
        talk.undo()
        say(talk, WORDS[4])
        found = holds(talk)
    with converse(path, 120, **fields) as talk:
        for text in (*WORDS[:2], WORDS[4]):
            say(talk, text)
        assert same(found, holds(talk))


def test_the_same_heads_in_other_layers_are_another_model(tiny_arch: Tiny, tmp_path: Path) -> None:
    other = {
        "attention__head_count": [4, 2, 4, 6],
        "attention__head_count_kv": [2, 1, 2, 3],
    }
    with converse(tiny_arch(arch="openelm-growing"), 200, n_predict=20) as talk:
        say(talk, WORDS[0])
        talk.save(tmp_path / "session")
    with (
        Model.load(tiny_arch(arch="openelm-growing", **other)) as model,
        pytest.raises(ScopeError, match="session"),
    ):
        Conversation.resume(model, tmp_path / "session")


@every_arch
def test_rows_at_once_write_what_they_write_alone(model: Model) -> None:
    prompt = random_tokens(60)
    exact = {"type_k": "f32", "type_v": "f32"}  # a batch of several tokens rounds otherwise
    rows = [
        request(prompt + random_tokens(5 + i, seed=i), 80, budget=budget, policy=policy, **exact)
        for i, (policy, budget) in enumerate([(None, 100), ("h2o", 90), ("full", None)])
    ]
    with engine(model, 3, 600, prefix_cells=200, **exact) as made:
        said = run(made, rows)
    for row, events in zip(rows, said, strict=True):
        assert tokens_of(events) == tokens_of(alone(model, row))
