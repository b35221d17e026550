"""What a run takes is known before, told truly, and what the process grows by."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.engine.budget import most_cells
from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.footprint import Footprint
from scope_cpp.engine.forecast import Forecast
from scope_cpp.engine.generate import Generation
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel import ParallelEngine
from scope_cpp.engine.parallel.cells import MOST_RESTING, usual_ring
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.sizes import CHAT_QUERIES, conversation_cells
from scope_cpp.errors import UsageError
from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.engine.growth import SLACK, in_a_process
from tests.native.harness import random_tokens

MIB = 2**20
GREEDY = SamplingParams(temp=0, ignore_eos=True)
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
linux = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
# cells large enough that they are the most of what a process takes
LARGE = {"n_layer": 4, "n_embd": 64, "n_head": 16, "n_head_kv": 8, "head_dim": 64, "n_ff": 64}


@pytest.fixture(scope="module")
def path(tiny: Tiny) -> Path:
    return tiny(**LARGE, n_ctx_train=8192)


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with Model.load(path) as model:
        yield model


def settings(**fields: Any) -> Settings:
    return Settings(n_threads=1, n_threads_batch=1, **fields)


def write(model: Model, chosen: Settings, n_prompt: int = 60, n: int = 2000) -> Generation:
    return Generation(
        model,
        random_tokens(n_prompt),
        n_predict=n,
        settings=chosen,
        sampling=GREEDY,
        warn=lambda line: None,
    )


def taken(model: Model, chosen: Settings, n_cells: int, **more: Any) -> Footprint:
    with Forecast(model) as forecast:
        return forecast.of_run(chosen, n_cells, bounded=True, **more)


def without_asked(found: Footprint, cache: BoundedCache) -> Footprint:
    """Leave out the prompt's queries, of which a forecast has the most that there may be."""
    return Footprint(**vars(found) | {"queries": cache.footprint.queries})


KINDS: list[dict[str, Any]] = [
    {},
    {"flash_attn": "on"},
    {"flash_attn": "off"},
    {"type_k": "q8_0", "type_v": "q4_0"},
    {"policy": "scope-slide"},
    {"policy": "scope-slide", "granularity": "cell"},
    {"policy": "h2o", "n_ubatch": 64},
    {"policy": "r-kv"},
    {"policy": "vatp"},
    {"policy": "scope-retrieval"},
    {"policy": "streaming-llm", "flash_attn": "on"},
    {"policy": "scope-slide", "prefill": "pyramidkv"},
]


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_a_forecast_is_what_a_generation_takes(model: Model, fields: dict[str, Any]) -> None:
    """To the byte, but for the prompt's queries: there may be fewer of them."""
    chosen = settings(budget=300, **fields)
    found = taken(model, chosen, 300)
    with write(model, chosen) as generation:
        assert generation.sizes.bounded
        cache, stats = generation.cache, generation.stats
        assert cache.footprint == without_asked(found, cache)
        assert stats.memory_bytes <= found.total
        assert found.queries - cache.footprint.queries <= 16 * MIB + MIB
        parts = stats.kv_bytes, stats.compute_bytes, stats.query_bytes, stats.selection_bytes
        assert stats.memory_bytes == sum(parts) and stats.kv_bytes == found.kv


def test_a_forecast_is_what_a_conversation_takes(model: Model) -> None:
    chosen = settings(budget=600)
    found = taken(model, chosen, 600, n_recorded=CHAT_QUERIES)
    with Conversation(model, settings=chosen, template=TEMPLATE, warn=lambda line: None) as talk:
        assert talk.cache.footprint == without_asked(found, talk.cache)
        assert talk.stats.memory_bytes == talk.cache.footprint.total


@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize("n_parallel", [1, 4, 8])
def test_a_forecast_is_what_an_engine_takes(model: Model, n_parallel: int, flash: str) -> None:
    chosen = settings(flash_attn=flash)
    found = taken(
        model,
        chosen,
        1024,
        n_recorded=usual_ring(chosen, 1024),
        n_parallel=n_parallel,
        n_resting=MOST_RESTING,
    )
    with ParallelEngine(
        model, n_parallel=n_parallel, n_cells=1024, settings=chosen, prefix_cells=512
    ) as engine:
        made = engine.memory()
        assert (made.kv, made.compute, made.selection) == (
            found.kv,
            found.compute,
            found.selection,
        )
        assert made.queries <= found.queries
        # a ring for each row that runs, none for the eight that may rest
        ring = 4 * 16 * 64 * 4 * usual_ring(chosen, 1024)
        assert ring * n_parallel <= made.queries
        if flash == "on":
            assert made.queries < ring * (n_parallel + 1)


def test_a_full_cache(model: Model) -> None:
    chosen = settings(policy="full")
    with Forecast(model) as forecast:
        found = forecast.of_run(chosen, 560, bounded=False)
    with write(model, chosen, n=500) as generation:
        assert generation.cache.footprint == found
        assert generation.stats.memory_bytes == found.total == found.kv + found.compute


# budgets


@pytest.mark.parametrize("fields", [{}, {"type_k": "q8_0", "type_v": "q8_0"}], ids=str)
@pytest.mark.parametrize("budget", [48, 64])
def test_a_budget_in_bytes_holds_all_of_it(
    model: Model, budget: int, fields: dict[str, Any]
) -> None:
    """Cells and buffers fit into it, and 256 cells more would not."""
    chosen = settings(budget=f"{budget}MiB", **fields)
    with write(model, chosen, n=16_000) as generation:
        capacity = generation.sizes.capacity
        assert generation.stats.memory_bytes <= budget * MIB
    assert taken(model, chosen, capacity).total <= budget * MIB
    assert taken(model, chosen, capacity + 256).total > budget * MIB


def test_a_budget_that_holds_the_whole_text_bounds_nothing(model: Model) -> None:
    with write(model, settings(budget="1GiB"), n=300) as generation:
        assert not generation.sizes.bounded
        assert generation.stats.selection_bytes == generation.stats.query_bytes == 0


def test_auto_leaves_half_of_the_memory(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scope_cpp.engine.sizes.free_memory", lambda **_: 80 * MIB)
    with write(model, settings(budget="auto"), n=8000) as generation:
        assert generation.stats.memory_bytes <= 40 * MIB
    cells = conversation_cells(settings(), model)
    assert taken(model, settings(), cells, n_recorded=CHAT_QUERIES).total <= 40 * MIB


def test_what_has_no_room_is_refused_before(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """By all that it takes: the cells alone would fit."""
    found = taken(model, settings(), 600)
    monkeypatch.setattr("scope_cpp.engine.sizes.free_memory", lambda **_: found.total - 1)
    assert found.kv < found.total / 2
    with pytest.raises(UsageError, match="600 cells take .* with the buffers that belong to them"):
        write(model, settings(budget=600))
    monkeypatch.setattr("scope_cpp.engine.sizes.free_memory", lambda **_: found.total)
    write(model, settings(budget=600)).close()


def test_most_cells() -> None:
    """Steps of 256 cells and a fixed part; never one too many, never one too few."""

    def steps(n: int) -> int:
        return 1000 + 10 * (-(-n // 256) * 256)

    assert most_cells(steps, 1000) == most_cells(steps, 3559) == 0
    assert most_cells(steps, 3560) == most_cells(steps, 6119) == 256
    assert most_cells(steps, 6120) == 512
    assert most_cells(steps, 10**9, full=700) == 700
    assert most_cells(steps, 6120, full=700) == 512
    assert most_cells(lambda n: n, 12345) == 12345


def test_long_contexts_are_worked_out_from_shorter_ones(model: Model) -> None:
    """What is not made to be measured continues the line."""
    with Forecast(model) as forecast:
        some, twice = (forecast.of_run(settings(), n, bounded=True) for n in (2**20, 2**21))
    assert twice.kv == 2 * some.kv
    assert some.total < twice.total < 2 * some.total


# what Python takes

CHOOSERS: list[dict[str, Any]] = [
    {},
    {"policy": "scope-slide", "granularity": "cell"},
    {"policy": "r-kv"},
    {"policy": "vatp"},
    {"policy": "scope-retrieval"},
    {"policy": "scope-retrieval", "granularity": "cell"},
    {"policy": "h2o", "prefill": "pyramidkv"},
]


@pytest.mark.parametrize("fields", CHOOSERS, ids=str)
def test_numpy_takes_no_more_than_is_told(model: Model, fields: dict[str, Any]) -> None:
    """Of all that is allocated through Python while cells are chosen, at the worst moment.

    What is told is the most for any policy, so that it may be several times what one takes.
    """
    chosen = settings(budget=400, **fields)
    n_prompt = 700 if "prefill" in fields else 350
    with write(model, chosen, n_prompt, n=100) as generation:
        with Forecast(model) as forecast:
            all_of_it = forecast.of_run(chosen, generation.sizes.capacity, bounded=True)
        held = kv_evict.memory(generation.context.ptr)
        told = all_of_it.selection + all_of_it.queries - sum(held["scratch"] + held["queries"])
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in generation:
                pass
            peak = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
    # objects of Python that are no arrays, such as tokens and statistics
    assert peak <= told + MIB / 2


# what the process takes

# Jobs, and the parts of the forecast without which it would be less than what a process grows by:
# so no buffer of these can be forgotten.
JOBS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "no scores": ({"policy": "streaming-llm", "prefill": "streaming-llm"}, {"compute"}),
    "a long window": (
        {"policy": "h2o", "prefill": "snapkv", "options": ("window=512",)},
        {"kv", "compute", "queries"},
    ),
    "records": ({"policy": "scope-retrieval"}, {"selection"}),
    "fused, quantized": ({"type_k": "q8_0", "type_v": "q8_0"}, {"selection"}),
}
# of what no policy needs whole: room for choosing, batches that are not full
LEAST = 0.6


@linux
@pytest.mark.parametrize("name", JOBS)
def test_the_process_grows_by_what_was_forecast(path: Path, name: str) -> None:
    settings, needed = JOBS[name]
    job = {
        "n_prompt": 700,
        "n_predict": 100,
        "n_cells": 768,
        "settings": settings | {"budget": 768},
    }
    found = in_a_process(path, kind="generate", **job)
    assert found["told"] <= found["forecast"]
    assert LEAST * found["forecast"] <= found["grown"] <= found["forecast"] + SLACK, found
    for part in needed:
        assert found["grown"] > found["forecast"] - found["parts"][part] + SLACK, (part, found)
