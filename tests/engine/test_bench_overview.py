"""The short form of a report, on records of known numbers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from scope_cpp.bench.overview import render, verdicts

Record = dict[str, Any]


def record(role: str, fa: str, ms: float | None, **more: Any) -> Record:
    policy = "full" if role == "full" else "scope-foresight:interval=auto"
    return {
        "test_kind": "gen", "role": role, "policy": policy, "prefill": None, "granularity": None,
        "fa": fa, "n_prompt": 2048, "depth": 8192, "n_rows": None, "full_rows": None,
        "budget": 2560, "ms": ms, "tokens_per_second": None if ms is None else 1000 / ms,
        "kv_mib": 96.0, "kv_of_full": None, "error": None if ms else "it died",
        "fits": None if role == "full" else False,
        **{f"vs_{base}{end}": None for base in ("fastest", "kv") for end in ("", "_min", "_max")},
        **more,
    }  # fmt: skip


def bounded(fa: str, ms: float, low: float, middle: float, high: float, **more: Any) -> Record:
    ratios = {"vs_fastest": middle, "vs_fastest_min": low, "vs_fastest_max": high}
    return record("bounded", fa, ms, kv_of_full=0.24, kv_mib=23.04, **{**ratios, **more})


FULL = [record("full", "on", 60.0), record("full", "off", 50.0)]


def said(*records: Record) -> list[str]:
    return list(verdicts([*FULL, *records]))


def test_faster() -> None:
    rows = bounded("on", 30.0, 0.5, 0.6, 0.7), bounded("off", 26.0, 0.50, 0.52, 0.54)
    assert said(*rows) == [
        "scope-foresight:interval=auto at 8,192 tokens: 1.9x faster than the full cache, "
        "24 % of its KV memory."
    ]


def test_as_much_memory_is_explained() -> None:
    row = bounded("on", 26.0, 0.50, 0.52, 0.54, depth=400, budget=320) | {"kv_of_full": 1.0}
    full = [record("full", fa, 50.0, depth=400) for fa in ("on", "off")]
    assert next(verdicts([*full, row])).endswith(
        "100 % of its KV memory (llama.cpp allocates cells in steps of 256: both get as many)."
    )


def test_the_full_cache_alone_is_compared_with_nothing() -> None:
    told = ["No bounded cache was measured, so nothing is compared with the full cache."]
    assert list(verdicts(FULL)) == told


def test_slower_and_not_told_apart() -> None:
    assert "1.02x faster than the full cache" in said(bounded("on", 49.0, 0.97, 0.98, 0.99))[0]
    assert "1.3x slower than the full cache" in said(bounded("on", 65.0, 1.2, 1.3, 1.4))[0]
    said_of = said(bounded("on", 50.0, 0.8, 0.99, 1.25))[0]
    assert "neither clearly faster nor slower than the full cache (0.80x to 1.25x)" in said_of


@pytest.mark.parametrize("ratio", [0.3, 0.9, 0.953, 0.98, 0.9951, 0.996, 1, 1.004, 1.02, 1.1, 3])
def test_a_slower_row_is_never_called_faster(ratio: float) -> None:
    """Nor is a factor said that says nothing."""
    said_of = said(bounded("on", 50 * ratio, ratio, ratio, ratio))[0]
    if abs(ratio - 1) < 0.005:
        assert "neither clearly faster nor slower" in said_of
        return
    factor, word = re.search(r"([\d.]+)x (faster|slower)", said_of).groups()
    assert word == ("faster" if ratio < 1 else "slower")
    assert 1 < float(factor) == pytest.approx(max(ratio, 1 / ratio), rel=0.05)


def test_where_everything_fits_nothing_is_compared() -> None:
    row = bounded("on", 45.0, 0.89, 0.9, 0.91, fits=True)
    assert said(row) == [
        "scope-foresight:interval=auto at 8,192 tokens: everything fits into 2,560 cells, "
        "nothing to compare."
    ]
    shown = render([*FULL, row]).splitlines()[3].split()
    assert shown == ["scope-foresight:interval=auto", "on", "8192", "22.2", "23.0"]
    texts = record("bounded", "on", 9.0, test_kind="parallel", n_rows=2, full_rows=2, vs_kv=0.9,
                   vs_kv_min=0.85, vs_kv_max=0.95)  # fmt: skip
    assert said(texts) == [
        "scope-foresight:interval=auto x2 with 2 texts at once: all of them fit into the same "
        "memory with the full cache, nothing to compare."
    ]


def test_a_model_that_cannot_be_bounded_is_not_compared() -> None:
    text = render([*FULL, bounded("on", 45.0, 0.89, 0.9, 0.91)], "m.gguf (mamba) can't be bounded")
    assert "m.gguf (mamba) can't be bounded; there is nothing to compare." in text
    assert "faster than" not in text and "1.11x" not in text


def test_a_missing_path_of_the_full_cache_is_named() -> None:
    row = bounded("on", 30.0, 0.4, 0.5, 0.6)
    alone = [record("full", "on", 60.0), record("full", "off", None), row]
    assert next(verdicts(alone)).endswith(
        "(the full cache with flash attention off was not measured)."
    )
    nothing = {key: None for key in row if key.startswith("vs_fastest")}
    assert next(verdicts([{**row, **nothing}])).endswith(
        "no full cache was measured to compare with."
    )


def test_the_faster_path_of_each_depth_speaks() -> None:
    rows = [bounded("on", 30.0, 0.4, 0.5, 0.6), bounded("on", 31.0, 0.4, 0.5, 0.6, depth=4096)]
    assert [text.split(":")[1] for text in said(*rows)] == [
        "interval=auto at 8,192 tokens", "interval=auto at 4,096 tokens",
    ]  # fmt: skip


def test_texts_at_once() -> None:
    row = record("bounded", "on", 9.0, test_kind="parallel", n_rows=8, full_rows=2, vs_kv=0.4,
                 vs_kv_min=0.35, vs_kv_max=0.45)  # fmt: skip
    assert next(verdicts([row])) == (
        "scope-foresight:interval=auto x8 with 8 texts at once: 2.5x faster than the full cache "
        "with the 2 that the same memory has room for."
    )


def test_all_of_it_fits_eighty() -> None:
    text = render([*FULL, record("same", "on", 9.0), bounded("off", 26.0, 0.5, 0.52, 0.54)])
    head, *rows = text.split("\n\n")[0].splitlines()
    assert head.split() == ["cache", "fa", "at", "t/s", "speed", "KV", "MiB"]
    assert [row.split()[0] for row in rows] == ["full", "full", "scope-foresight:interval=auto"]
    assert rows[2].split()[1:] == ["off", "8192", "38.5", "1.92x", "23.0"]
    assert max(map(len, text.splitlines())) <= 80
    failed = render([record("full", "on", None)])
    assert failed.splitlines()[1].split() == ["full", "on", "8192", "failed", "96.0"]
