"""Rows take turns in processes of their own, and hold the cells that they claim to hold."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scope_cpp.bench import run as run_module
from scope_cpp.bench.bounded import BoundedRow
from scope_cpp.bench.clock import NativeClock
from scope_cpp.bench.fill import CHUNK, Filler
from scope_cpp.bench.measure import Bench, Report
from scope_cpp.bench.process import RowDied, RowRefused, Worker
from scope_cpp.bench.request import FLASH, TESTS, Request
from scope_cpp.bench.row import Compute, Row
from scope_cpp.bench.stock import StockRow
from scope_cpp.bench.worker import Meter
from scope_cpp.engine.context import Context, ContextParams
from scope_cpp.engine.kv_types import bytes_per_cell
from scope_cpp.engine.model import Model
from scope_cpp.errors import UsageError
from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp

Tiny = Callable[..., Path]

SLIDE = "scope-slide:interval=4:beta2=20"


def quick(path: Path, **more: Any) -> Request:
    given = {"n_prompts": (40,), "depths": (150,), "n_gen": 6, "repetitions": 2, "beta": 48}
    compute = Compute(str(path), n_threads=1, n_threads_batch=1)
    return Request(compute, **{"policies": (SLIDE,), "flash": ("on",), **given, **more})


def measure(request: Request, note: Callable[[str], None] = lambda line: None) -> Report:
    return Bench(request, warn=lambda line: None, note=note).run()


@pytest.fixture(scope="module")
def report(tiny: Tiny) -> Report:
    return measure(quick(tiny()))


def test_no_two_blocks_overlap(report: Report) -> None:
    blocks = [b for o in report.outcomes for b in ([o.warm_up] if o.warm_up else []) + o.blocks]
    blocks.sort(key=lambda block: block["started"])
    assert len(blocks) == 3 * len(report.outcomes)
    for before, after in pairwise(blocks):
        assert before["ended"] <= after["started"]


def test_rows_take_turns(report: Report) -> None:
    order = sorted(
        ((block["started"], block["round"], i) for i, o in enumerate(report.outcomes)
         for block in o.blocks)
    )  # fmt: skip
    n = len(report.outcomes)
    assert [(number, row) for _, number, row in order] == [
        (number, row) for number in (1, 2) for row in range(n)
    ]


@pytest.mark.parametrize("test", TESTS)
def test_a_test_has_the_full_cache_on_both_paths(tiny: Tiny, test: str) -> None:
    request = quick(tiny(), tests=(test,), flash=("on",))
    with Model.load(tiny(), no_alloc=True) as model:
        rows = request.rows(test, model)
    if test == "turn":  # what it is compared with is known once the conversation is held
        assert [row.role for row in rows] == ["bounded"]
        return
    paths = {row.flash for row in rows if row.role == "full" or row.policy == "full"}
    assert paths == set(FLASH)


def test_kv_is_what_llama_cpp_allocated(report: Report, tiny: Tiny) -> None:
    with Model.load(tiny(), no_alloc=True) as model:
        size = bytes_per_cell(model)
    for outcome in report.outcomes:
        allocated = outcome.facts["cells_allocated"]
        assert allocated % 256 == 0
        assert outcome.facts["kv_mib"] == pytest.approx(allocated * size / 2**20, abs=0.005)


def test_cells_of_full_rows_are_those_of_the_depth(report: Report) -> None:
    used = {o.row.role: o.blocks[-1]["cells_used"] for o in report.outcomes}
    assert used["full"] == 151
    assert used["same"] == 40 + 48


@pytest.mark.parametrize("fill", ["copy", "read", "decode"])
@pytest.mark.parametrize(("prefill", "kept"), [("full", 200), ("snapkv", 120)])
def test_a_bounded_row_is_at_its_depth(tiny: Tiny, fill: str, prefill: str, kept: int) -> None:
    row = Row("gen", "bounded", "on", kept + 48, n_prompt=200, depth=600, n_predict=500, beta=48)
    row = Row(**{**vars(row), "policy": "scope-slide", "prefill": prefill, "fill": fill})
    subject = BoundedRow(row, Compute(str(tiny()), n_threads=1, n_batch=64))
    subject.prepare()
    cache, ptr = subject.cache, subject.context.ptr
    pos, ids, _ = kv_evict.cells(ptr, 0)
    assert cache.n_past == 600
    assert (cache.n_prompt, cache.n_prompt_cells) == (200, kept)
    assert len(set(ids)) == len(pos) == cache.stats.cells_used == kept + 48
    assert pos[-1] == 599
    assert (np.diff(pos[kept:]) >= 1).all() and pos[kept] >= 200 > pos[kept - 1]
    for n in range(1, 8):
        subject.step()
        assert cache.n_past == 600 + n
        assert subject.state()["cells_used"] == len(kv_evict.cells(ptr, 0)[0]) <= kept + 48
    assert subject.counters()["selections"] >= 7


@pytest.mark.parametrize("n_read", [1, 30])
@pytest.mark.parametrize("fill", ["copy", "read", "decode"])
def test_a_full_row_stays_at_its_cells(tiny: Tiny, n_read: int, fill: str) -> None:
    row = Row("gen", "full", "off", 400, n_read=n_read, n_prompt=150, depth=399, fill=fill)
    subject = StockRow(row, Compute(str(tiny()), n_threads=1, n_batch=64))
    subject.prepare()
    for _ in range(3):
        subject.step()
        pos, _, _ = kv_evict.cells(subject.ctx, 0)
        assert pos.tolist() == list(range(400)) or kv_evict.n_cells(subject.ctx) == 0
        subject.restore()
        assert subject.state()["cells_used"] == 400


def test_copies_are_as_good_as_reading_again(tiny: Tiny) -> None:
    """In a model of one layer K and V depend on token and position alone."""
    tokens = [5 + i * 7 % 50 for i in range(CHUNK)]
    n = 2 * CHUNK + 20

    def logits(fill: Callable[[Context], None]) -> Any:
        params = ContextParams(n_cells=512, n_threads=1, n_seq_max=2, type_k=0, type_v=0)
        with Model.load(tiny(n_layer=1)) as model, Context(model, params) as context:
            fill(context)
            context.decode([7], n)
            return context.logits()

    def copied(context: Context) -> None:
        filler = Filler(context.ptr, context.decode, tokens, context.n_batch)
        filler.take_chunk()
        filler.place(0, n)

    def read(context: Context) -> None:
        context.decode([*tokens[:20], *tokens, *tokens], 0)

    again, scale = logits(read), np.abs(logits(read)).max()
    # the rotation of K to its position goes through float32 once more
    np.testing.assert_allclose(logits(copied), again, atol=1e-3 * scale)


def test_a_row_that_lacks_memory_is_refused_and_others_go_on(tiny: Tiny) -> None:
    report = measure(quick(tiny(), depths=(10**9,), repetitions=1, n_gen=1))
    by_role = {o.row.role: o for o in report.outcomes}
    assert "are free" in str(by_role["full"].error)
    assert by_role["same"].measured
    assert by_role["bounded"].measured
    assert report.failed


def test_a_quantized_v_is_measured_with_flash_attention_alone(tiny: Tiny) -> None:
    request = quick(tiny(), repetitions=1, n_gen=1, flash=("on", "off"))
    compute = Compute(request.compute.model, n_threads=1, type_v="q8_0")
    report = measure(Request(**{**vars(request), "compute": compute}))
    assert {o.row.flash for o in report.outcomes} == {"on"}
    assert not report.failed


def test_a_v_in_blocks_without_flash_attention_is_refused() -> None:
    with pytest.raises(UsageError, match=r"-ctv q8_0 needs flash attention: give -fa on, or"):
        Request(Compute("model.gguf", type_v="q8_0"), flash=("off",))


class Recorded(Worker):
    """Remembers all processes."""

    started: list[Worker] = []

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.started.append(self)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    monkeypatch.setattr(Recorded, "started", [])
    monkeypatch.setattr(run_module, "Worker", Recorded)
    return Recorded.started


def test_a_worker_that_is_killed_is_reported_and_others_go_on(
    tiny: Tiny, workers: list[Worker]
) -> None:
    def note(line: str) -> None:
        if line == "round 2/3":
            workers[1].process.kill()

    report = measure(quick(tiny(), repetitions=3), note)
    killed, *others = [report.outcomes[1], report.outcomes[0], *report.outcomes[2:]]
    assert "SIGKILL" in str(killed.error)
    assert [block["round"] for block in killed.blocks] == [1]
    assert killed.died and report.failed
    assert all(len(other.blocks) == 3 for other in others)
    assert all(worker.process.poll() is not None for worker in workers)


def test_a_model_that_does_not_load_is_refused(tmp_path: Path) -> None:
    worker = Worker(Row("gen", "full", "on", 100), Compute(str(tmp_path / "x.gguf")))
    with pytest.raises(RowRefused, match=r"cannot be loaded: .*x\.gguf"):
        worker.start()
    worker.close()


def test_an_exception_in_a_worker_is_its_last_line(tiny: Tiny) -> None:
    row = Row("gen", "full", "neither", 100, depth=99)
    worker = Worker(row, Compute(str(tiny())))
    with pytest.raises(RowDied, match="ended with 1: KeyError: 'neither'"):
        worker.start()
    worker.close()


def test_time_in_native_calls_is_counted_once(tiny: Tiny) -> None:
    row = Row("gen", "full", "on", 50, depth=49)
    subject = StockRow(row, Compute(str(tiny()), n_threads=1))
    saved = dict(vars(llama_cpp))
    try:
        meter = Meter(subject, NativeClock(llama_cpp))
        subject.prepare()
        block = meter.block(3)
    finally:
        vars(llama_cpp).update(saved)
    for whole, native in zip(block["seconds"], block["native_seconds"], strict=True):
        assert 0 < native < whole
