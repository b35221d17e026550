"""Rows at once and their cells: never more than rows need, or than there is memory for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scope_cpp.batch.requests import Defaults, Requests
from scope_cpp.batch.rows import FAILED, Failure, Row
from scope_cpp.batch.sizes import Census, Layout, Longest, Memory, layout
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel.copies import Copies
from scope_cpp.engine.parallel.options import Options
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import UsageError

PLENTY = 10**6


def row(i: int, prompt: str, **options: object) -> Row:
    return Row(i, i + 1, i, "d", prompt=prompt, options=Options(**options))  # type: ignore[arg-type]


def test_the_largest_row_counts(model: Model) -> None:
    requests = Requests(model, Defaults(Settings(budget="64"), n_predict=10))
    longest = Longest()
    for i in range(300):
        longest.add(row(i, "a" * (1 + i % 37)))
    longest.add(row(300, "bb", n_predict=500))
    longest.add(row(301, "bb", settings={"budget": "nonsense"}))
    longest.add(Row(302, 303, 302, "d", error=Failure(FAILED, "why")))
    tokens = len(model.tokenize("a" * 37))
    assert longest.census(requests) == Census(303, 64, tokens)
    longest.add(row(303, "bb", n_predict=500, settings={"budget": "200"}))
    assert longest.census(requests) == Census(304, 200, tokens)


@pytest.mark.parametrize(
    ("census", "free", "asked", "expected"),
    [
        (Census(100, 500, 80), PLENTY, {}, Layout(8, 4000, 80)),
        (Census(3, 500, 80), PLENTY, {}, Layout(3, 1500, 80)),
        (Census(100, 500, 80), 2200, {}, Layout(2, 1000, 80)),
        (Census(100, 500, 80), 600, {}, Layout(1, 500, 80)),
        (Census(100, 500, 80), 400, {}, Layout(1, 400, 80)),  # the largest rows are refused
        (Census(100, 500, 80), PLENTY, {"n_parallel": 2}, Layout(2, 1000, 80)),
        (Census(100, 500, 80), 2000, {"n_parallel": 32}, Layout(32, 1000, 80)),
        (Census(100, 500, 80), PLENTY, {"cells": "1600"}, Layout(3, 1600, 80)),
        (Census(100, 500, 80), PLENTY, {"cells": "40"}, Layout(1, 40, 40)),
        (Census(1, 1, 1), PLENTY, {"prefix_cells": "0"}, Layout(1, 1, 0)),
        (Census(0, 1, 1), PLENTY, {}, Layout(8, 8, 1)),
        (Census(100, 500, 80), PLENTY, {"cells": "2k"}, Layout(4, 2048, 80)),
        (Census(), PLENTY, {}, Layout(8, 65536, 8192)),
        (Census(), 10_000, {"n_parallel": 4}, Layout(4, 8192, 8192)),
    ],
)
def test_layouts(census: Census, free: int, asked: dict[str, Any], expected: Layout) -> None:
    assert layout(census, Memory(free), **asked) == expected


def test_cells_may_be_given_as_memory() -> None:
    memory = Memory(2**20, lambda n: n * 2**10)
    assert layout(Census(9, 10, 5), memory, cells="512KiB").n_cells == 512
    assert layout(Census(9, 10, 5), memory, cells="auto").n_cells == 512
    assert layout(Census(9, 10, 5), memory, prefix_cells="8KiB").prefix_cells == 8


def test_copies_of_prompts_lie_beside_the_cells() -> None:
    """Of models whose prompts can't rest in cells; windows and states of two prompts by default."""
    census, copies = Census(4, 500, 80), Copies(per_cell=10, beside=95, free=10**6)
    memory = Memory(10**6, lambda n: 10 * n, copies)
    assert layout(census, memory) == Layout(4, 2000, 80 + 2 * 10)
    # half of the memory is for both
    assert layout(census, replace(memory, free=24_000)) == Layout(2, 1000, 100)
    assert layout(census, memory, prefix_cells="3k") == Layout(4, 2000, 3072)
    assert layout(census, memory, prefix_cells="0") == Layout(4, 2000, 0)
    # a quarter of what is asked for, if that holds one
    assert layout(census, memory, n_parallel=1, cells="3kB") == Layout(1, 225, 75)
    assert layout(census, memory, n_parallel=1, cells="1.6kB") == Layout(1, 160, 0)
    with pytest.raises(UsageError, match="--prefix-cells 41: .* may take 420 B, or 42 cells"):
        layout(census, memory, prefix_cells="41")


@pytest.mark.parametrize(
    ("cells", "phrase"),
    [
        ("100", "--cells 100: .*100 cells take .* but 99 B are free"),
        ("50%", r"^--cells '50%' can't be given: give cells \(2048, 2k\), memory .* or auto$"),
        ("many", "^--cells 'many' is not understood: give cells"),
        ("0", "^--cells '0' must be more than 0"),
    ],
)
def test_what_is_no_number_of_cells_is_refused(cells: str, phrase: str) -> None:
    with pytest.raises(UsageError, match=phrase):
        layout(Census(1, 1, 1), Memory(99), cells=cells)
