"""Medians, ratios and shares are what the blocks say."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.bench.row import Row
from scope_cpp.bench.run import Outcome
from scope_cpp.bench.summary import python_ms, ratios, record, relative_iqr

seconds = st.floats(1e-6, 1e3, allow_nan=False)
FACTS = {"kv_mib": 2.0, "cells_allocated": 256, "has_hooks": False, "policy": {}}


def block(number: int, *times: float, native: float = 0.0, **more: Any) -> dict[str, Any]:
    return {
        "round": number,
        "seconds": list(times),
        "native_seconds": [native] * len(times),
        "cells_used": 10,
        "attention_loss": None,
        "peak_rss": 3 * 2**20,
        "anonymous_rss": 2**20,
        **more,
    }


def outcome(row: Row, *times: float, **facts: Any) -> Outcome:
    return Outcome(row, {**FACTS, **facts}, [block(i, t) for i, t in enumerate(times, 1)])


FULL = Row("gen", "full", "on", 101, depth=100)
SAME = Row("gen", "same", "on", 60)
BOUNDED = Row("gen", "bounded", "on", 60, depth=100, policy="scope-slide")


@given(st.lists(st.tuples(seconds, seconds), min_size=1, max_size=9))
def test_ratios_compare_blocks_of_the_same_round(times: list[tuple[float, float]]) -> None:
    mine, theirs = outcome(BOUNDED, *(a for a, _ in times)), outcome(FULL, *(b for _, b in times))
    found = record(mine, [mine, theirs])
    each = [a / b for a, b in times]
    assert found["vs_full"] == pytest.approx(statistics.median(each))
    assert found["vs_full_min"] == pytest.approx(min(each))
    assert found["vs_full_max"] == pytest.approx(max(each))
    assert found["ms"] == pytest.approx(1e3 * statistics.median(a for a, _ in times))
    assert found["tokens_per_second"] == pytest.approx(statistics.fmean(1 / a for a, _ in times))


@given(st.permutations(range(1, 7)), st.sets(st.integers(1, 6), min_size=1))
def test_rounds_that_the_base_lacks_do_not_count(order: list[int], there: set[int]) -> None:
    mine = [block(i, 2.0 * i) for i in order]
    assert ratios(mine, [block(i, float(i)) for i in there]) == pytest.approx([2.0] * len(there))


@given(st.lists(seconds, min_size=1, max_size=20))
def test_a_block_is_the_mean_of_its_steps(times: list[float]) -> None:
    one = Outcome(FULL, FACTS, [block(1, *times)])
    assert record(one, [one])["ms"] == pytest.approx(1e3 * statistics.fmean(times))


@given(st.lists(seconds, min_size=2, max_size=30), st.floats(0.1, 10))
def test_relative_iqr_does_not_depend_on_the_unit(times: list[float], unit: float) -> None:
    spread = relative_iqr(times)
    assert spread >= 0
    assert relative_iqr([t * unit for t in times]) == pytest.approx(spread, rel=1e-9, abs=1e-9)
    assert relative_iqr([times[0]] * 3) == 0


def test_relative_iqr_of_known_quartiles() -> None:
    assert relative_iqr([1, 2, 3, 4, 5]) == pytest.approx(2 / 3)
    assert relative_iqr([7]) == 0


def test_bases_have_the_same_path_depth_and_cells() -> None:
    mine = outcome(BOUNDED, 1.0)
    others = [
        outcome(replace(FULL, flash="off"), 2.0),
        outcome(FULL, 4.0),
        outcome(replace(FULL, depth=200, cells=201), 0.1),
        outcome(replace(SAME, flash="off"), 0.1),
        outcome(replace(SAME, cells=61), 0.1),
        outcome(SAME, 5.0),
        outcome(replace(SAME, role="hooks"), 0.1),
        outcome(replace(FULL, test="memory"), 0.1),
    ]
    found = record(mine, [*others, mine])
    assert found["vs_full"] == pytest.approx(1 / 4)
    assert found["vs_fastest"] == pytest.approx(1 / 2)
    assert found["vs_same"] == pytest.approx(1 / 5)
    assert found["vs_fastest_row"] == "full, fa off, tg1 @ d100"


def test_a_row_without_numbers_is_no_base_and_has_none() -> None:
    mine = outcome(BOUNDED, 1.0)
    dead = replace_error(outcome(FULL, 4.0), "killed")
    assert record(mine, [dead, mine])["vs_full"] is None
    lost = record(dead, [dead, mine])
    assert (lost["error"], lost["ms"], lost["vs_fastest"]) == ("killed", None, None)


def replace_error(of: Outcome, error: str) -> Outcome:
    of.error = error
    return of


def test_memory_is_compared_at_the_depth() -> None:
    mine, full = outcome(BOUNDED, 1.0, kv_mib=1.0), outcome(FULL, 1.0, kv_mib=4.0)
    full.blocks[0]["anonymous_rss"] = 5 * 2**20
    full.blocks[0]["peak_rss"] = 9 * 2**20
    found = record(mine, [full, mine])
    assert found["kv_of_full"] == 0.25
    assert found["kv_saved_mib"] == 3
    assert found["anonymous_saved_mib"] == 4
    assert found["peak_rss_saved_mib"] == 6
    assert record(full, [full, mine])["kv_of_full"] is None


@given(st.lists(st.tuples(seconds, st.booleans()), min_size=1, max_size=20))
def test_python_counts_steps_without_a_selection(steps: list[tuple[float, bool]]) -> None:
    one = block(1, *(1.0 + share for share, _ in steps), native=1.0)
    one["selections"] = [int(selected) for _, selected in steps]
    free = [1e3 * share for share, selected in steps if not selected]
    found = python_ms([one])
    assert found == (pytest.approx(statistics.median(free), abs=1e-6) if free else None)


def test_selection_and_moves_are_means_over_all_steps() -> None:
    sums = {"selections": [1, 0], "score_seconds": [0.004, 0], "select_seconds": [0.002, 0]}
    one = Outcome(BOUNDED, FACTS, [block(1, 1.0, 1.0, **sums, move_seconds=[0.001, 0.003])])
    found = record(one, [one])
    assert found["select_ms"] == pytest.approx(3)
    assert found["move_ms"] == pytest.approx(2)
    assert (found["selections_min"], found["selections_max"]) == (1, 1)
