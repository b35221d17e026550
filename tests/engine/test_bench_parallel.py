"""Texts that are written at once: at their depth, in their cells, compared for each token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.bench.measure import Bench
from scope_cpp.bench.parallel import ParallelRow
from scope_cpp.bench.request import Request
from scope_cpp.bench.row import Compute, Row
from scope_cpp.bench.summary import record
from scope_cpp.engine.model import Model
from scope_cpp.errors import UsageError
from scope_cpp.native import kv_evict
from tests.engine.test_bench_summary import outcome

Tiny = Callable[..., Path]


def asked(path: Path, **more: Any) -> Request:
    given = {"tests": ("parallel",), "flash": ("on",), "policies": ("scope-slide",), **more}
    return Request(Compute(str(path), n_threads=1, n_threads_batch=1), **given)


def rows(request: Request) -> list[Row]:
    with Model.load(request.compute.model, no_alloc=True) as model:
        return request.rows("parallel", model)


def test_the_bounded_cache_holds_four_times_the_rows(tiny: Tiny) -> None:
    """Prompt 512, 4096 generated, a pool of 512: the full cache has room for 1 text, it for 4."""
    found = rows(asked(tiny(), n_parallel=(1, 2, 4, 8, 18)))
    bounded = [row for row in found if row.policy != "full"]
    assert [row.n_rows for row in bounded] == [1, 2, 4, 8, 18]
    assert [row.cells for row in bounded] == [1024 * row.n_rows for row in bounded]
    assert [row.full_rows for row in bounded] == [0, 0, 0, 1, 4]
    assert all(row.n_rows >= 4 * row.full_rows for row in bounded)
    full = {(row.n_rows, row.cells) for row in found if row.policy == "full"}
    assert full == {(1, 4608), (4, 4 * 4608)}


def test_a_depth_within_the_prompt_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match="lies within the prompt"):
        rows(asked(tiny(), depths=(100,)))
    with pytest.raises(UsageError, match="-np 0"):
        asked(tiny(), n_parallel=(0,))


@pytest.mark.parametrize("policy", ["scope-slide", "scope-foresight", "full"])
def test_all_texts_are_at_the_depth(tiny: Tiny, policy: str) -> None:
    row = Row("parallel", "bounded", "on", 3 * 100, n_prompt=40, depth=300, n_predict=400)
    row = replace(row, policy=policy, budget="100", n_rows=3)
    if policy == "full":
        row = replace(row, budget="100%", cells=3 * row.full_cells)
    subject = ParallelRow(row, Compute(str(tiny()), n_threads=1, n_batch=64))
    subject.prepare()
    caches = subject.engine.caches
    assert [cache.n_past for cache in caches] == [300] * 3
    each = 300 if policy == "full" else 100
    for cache in caches:
        labels, _, shared = kv_evict.cells(cache.context.ptr, cache.seq)
        assert len(labels) == cache.stats.cells_used == each and labels[-1] == 299
        assert not shared.any()
    for n in range(1, 6):
        subject.step()
        assert [cache.n_past for cache in caches] == [300 + n] * 3
        assert subject.state()["cells_used"] == sum(c.stats.cells_used for c in caches)
        assert subject.state()["cells_used"] <= row.cells
    assert (subject.counters()["selections"] > 0) == (policy != "full")


def test_it_is_measured(tiny: Tiny) -> None:
    request = asked(
        tiny(), n_parallel=(2,), n_prompts=(40,), depths=(120,), n_gen=4, repetitions=2, beta=48
    )
    report = Bench(request, warn=lambda line: None).run()
    assert not report.failed
    found = {(item["policy"], item["n_rows"]): item for item in report.records()}
    two, one = found["scope-slide", 2], found["scope-slide", 1]
    assert two["tokens_per_second"] == pytest.approx(2e3 / two["ms"], rel=0.5)
    assert two["cells_used"] <= 2 * 88 and one["cells_used"] <= 88
    assert two["vs_one"] > 0 and one["vs_one"] is None
    assert two["vs_kv"] > 0 and two["full_rows"] == 0


def test_ratios_are_those_of_a_token() -> None:
    one = Row("parallel", "bounded", "on", 100, n_prompt=50, n_predict=350, depth=90, policy="h2o")
    eight = replace(one, n_rows=8, cells=800)
    full = replace(one, n_rows=2, cells=800, policy="full")
    rows = [outcome(one, 1.0, 3.0), outcome(eight, 4.0, 12.0), outcome(full, 2.0, 6.0)]
    rows.append(outcome(replace(full, flash="off"), 1.0, 2.0))
    rows.append(outcome(replace(one, flash="off"), 2.0, 6.0))
    found = record(rows[1], rows)
    assert found["vs_one"] == pytest.approx(4 / 8)
    assert found["full_rows"] == 2
    # the faster of both attention paths: 1 and 2 seconds for two texts
    assert found["vs_kv_min"] == pytest.approx((4 / 8) / (1 / 2))
    assert found["vs_kv_max"] == pytest.approx((12 / 8) / (2 / 2))
    assert found["tokens_per_second"] == pytest.approx((8 / 4 + 8 / 12) / 2)
    assert record(rows[2], rows)["vs_kv"] is None
