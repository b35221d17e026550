"""How much faster than the full cache, on made-up times."""

from __future__ import annotations

import random

import pytest

from scope_cpp.engine.generate import Stats
from scope_cpp.engine.speedup import Growth


def grown(n: int = 400, base: float = 0.03, slope: float = 1e-5, noise: float = 0.002) -> Growth:
    rng, growth = random.Random(1), Growth()
    for cells in range(600, 600 + n):
        growth.add(cells, base + slope * cells + rng.gauss(0, noise))
    return growth


def answer(n_generated: int = 101, seconds: float = 4.0, cells: int = 1000) -> Stats:
    return Stats(n_generated=n_generated, generation_seconds=seconds, cells_used=cells, evicted=9)


def test_the_full_cache_is_drawn_out_from_what_was_measured() -> None:
    exact = grown(noise=0)
    assert exact.seconds(5000) == pytest.approx(0.03 + 0.05)
    # an answer that ends at 5050 had 5000 cells of the full cache in its middle
    assert exact.times_faster(answer(), 5050) == pytest.approx(0.08 / 0.04)
    assert grown().times_faster(answer(), 5050) == pytest.approx(2, rel=0.25)
    assert exact.times_faster(answer(seconds=16.0), 5050) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("growth", "stats", "n_past"),
    [
        (grown(99), answer(), 5000),  # too few tokens
        (grown(slope=0), answer(), 5000),  # the slope is noise
        (grown(slope=-1e-5), answer(), 5000),
        (grown(noise=0.05), answer(), 5000),
        (grown(slope=1e-4), answer(), 5000),  # as if another program had begun to run
        (grown(), answer(), 1499),  # hardly more cells than there are
        (grown(), answer(), 21_000),  # too far from what was measured
        (grown(), answer(n_generated=20), 5000),
        (grown(), answer(seconds=7.8), 5050),  # 0.078 s a token: nearer to 0.08 than its error
        (Growth(), answer(), 5000),
    ],
)
def test_nothing_is_said_where_it_is_not_known(growth: Growth, stats: Stats, n_past: int) -> None:
    assert growth.times_faster(stats, n_past) is None


def test_a_cache_of_one_size_has_no_slope() -> None:
    growth = Growth()
    for _ in range(200):
        growth.add(500, 0.04)
    assert growth.seconds(1000) is None


def test_only_tokens_without_a_selection_count() -> None:
    growth, seconds, selections = Growth(), 0.0, 0
    for n in range(1, 300):
        seconds += 0.03 + 1e-5 * (100 + n)
        if n % 10 == 0:  # a selection, which takes longer
            seconds, selections = seconds + 9, selections + 1
        growth.note(Stats(n_generated=n, generation_seconds=seconds, cells_used=100 + n,
                          selections=selections, evicted=selections))  # fmt: skip
    assert growth.seconds(1000) == pytest.approx(0.03 + 1e-5 * 1000)
    growth.note(Stats(n_generated=1, generation_seconds=5.0, cells_used=50))  # another answer
    growth.note(Stats(n_generated=9, generation_seconds=9.0, cells_used=58))
    assert growth.seconds(1000) == pytest.approx(0.03 + 1e-5 * 1000)
