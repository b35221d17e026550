"""Memory and speed: of a run's rows, and of a report of ``scope bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.errors import UsageError
from scope_cpp.figures.cost import cost
from scope_cpp.figures.marks import UNICODE

from .make_run import N_WRITTEN, make_run, row


def test_of_a_run(tmp_path: Path) -> None:
    rows = {row("full"): [[1, 1]] * 2, row("h2o", 28): [[1, 0]] * 2}
    shown = cost(str(make_run(tmp_path / "run", rows, seconds=4.0)))
    records = shown.table().records()
    assert [r["row"] for r in records] == ["full", "h2o"]
    assert [r["cells"] for r in records] == [150, 128]
    assert [r["kv_mib"] for r in records] == [150 / 1024, 0.125]
    assert [r["tokens_per_second"] for r in records] == [N_WRITTEN / 4] * 2
    assert "a.gguf, reference, 2 samples" in shown.run


def bench_row(**values: Any) -> dict[str, Any]:
    same = {
        "test_kind": "gen", "role": "bounded", "policy": "h2o", "budget": 512, "fa": "on",
        "prefill": "full", "granularity": "head", "depth": 4096, "ms": 2.0, "ms_min": 1.0,
        "ms_max": 4.0, "tokens_per_second": 500.0, "kv_mib": 1.5, "cells_used": 512,
    }  # fmt: skip
    return {**same, **values}


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    full = {"role": "full", "policy": "full", "budget": None, "prefill": None, "granularity": None}
    rows = [
        bench_row(**full, kv_mib=12.0, cells_used=4097),
        bench_row(),
        bench_row(granularity="cell", fa="off"),
        bench_row(depth=1024),  # shallower
        bench_row(test_kind="memory", depth=8192, kv_mib=9.0),
        bench_row(policy="tova", ms=None),  # it failed
    ]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({"compute": {"model": "m/b.gguf"}, "rows": rows}))
    return path


def test_of_a_bench_at_its_deepest_position(bench: Path) -> None:
    shown = cost(str(bench))
    records = shown.table().records()
    assert [r["row"] for r in records] == [
        "full, -fa on",
        "h2o, 512 cells, -fa on",
        "h2o, 512 cells, cell, -fa off",
    ]
    assert [r["kv_mib"] for r in records] == [12.0, 1.5, 1.5]
    assert [method.number for method in shown.methods] == [0, 1, 1]
    assert records[1]["tokens_per_second_min"] == 250
    assert records[1]["tokens_per_second_max"] == 1000
    assert shown.run == "b.gguf, scope bench at position 4096"


def test_in_a_terminal(bench: Path) -> None:
    lines = cost(str(bench)).text(80, UNICODE).splitlines()
    assert max(map(len, lines)) <= 80
    full, h2o = lines[1], lines[2]
    assert full.count("█") > h2o.count("█") > 0
    assert "12.00" in full and "1.50" in h2o and "500.0" in h2o


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is no report of 'scope bench -o json'"),
        ('{"compute": {"model": "a"}, "rows": []}', "no row of --test gen has numbers"),
    ],
)
def test_no_report(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        cost(str(tmp_path / "a.json"))


def test_neither_run_nor_report(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run of 'scope eval run'"):
        cost(str(tmp_path / "no"))
