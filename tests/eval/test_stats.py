"""Intervals and p-values against what is known of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from scope_cpp.eval import stats
from scope_cpp.eval.loops import find_loop
from scope_cpp.eval.stats import Scores, Shares
from scope_cpp.eval.task import Score, Task
from tests.eval.counting import Counting, Longest


def shares(values: Sequence[float], asked: float = 1.0) -> Shares:
    right = np.array(values, float)
    return Shares(right, np.full(len(right), asked))


def micro(scores: Sequence[Score]) -> float:
    return Task.total(Counting(), scores)


def test_spread_of_a_mean_is_that_of_theory() -> None:
    values = np.random.default_rng(1).normal(size=40)
    totals = stats.bootstrap(shares(list(values)), seed=0)
    assert len(totals) == 10_000
    # of 10,000 draws the standard deviation itself has an error of 0.7 %
    assert totals.std() == pytest.approx(values.std() / math.sqrt(40), rel=0.03)
    assert totals.mean() == pytest.approx(values.mean(), abs=0.01)


def test_interval_of_a_share_has_the_binomial_quantiles() -> None:
    n, right = 20, 14  # the quantiles are far from the steps of this distribution
    chances = [math.comb(n, k) * 0.7**k * 0.3 ** (n - k) for k in range(n + 1)]
    below = np.cumsum(chances)
    low, high = (int(np.searchsorted(below, share)) / n for share in (0.025, 0.975))
    found = stats.estimate(shares([1.0] * right + [0.0] * (n - right)), seed=3)
    assert found.value == 0.7
    assert found.ci == pytest.approx((low, high), abs=1e-9)


def test_questions_of_an_item_do_not_count_as_items() -> None:
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    once = stats.estimate(shares(values), seed=0)
    ten_each = stats.estimate(shares([10 * value for value in values], asked=10), seed=0)
    assert ten_each.ci == pytest.approx(once.ci)


def test_items_weigh_as_much_as_they_ask() -> None:
    sample = Shares(np.array([1.0, 0.0]), np.array([1.0, 3.0]))
    assert stats.total(sample) == 0.25


def test_differences_are_of_the_same_items() -> None:
    values = np.random.default_rng(0).random(12)
    found = stats.difference(shares(list(values + 0.25)), shares(list(values)), seed=0)
    assert found.value == pytest.approx(0.25)
    assert found.ci == pytest.approx((0.25, 0.25))


def test_one_item_has_no_interval() -> None:
    assert stats.estimate(shares([1.0]), seed=0).ci is None
    assert stats.difference(shares([1.0]), shares([0.0]), seed=0).ci is None


def test_a_total_of_its_own_is_resampled_as_the_usual_one() -> None:
    rng = np.random.default_rng(2)
    scores = [Score(tuple(rng.integers(0, 2, n).astype(float)), 0.0) for n in (3, 5, 1, 4, 2)]
    usual = stats.sample_of(Counting(), scores)
    assert isinstance(usual, Shares)
    assert isinstance(stats.sample_of(Longest(), scores), Scores)
    own = Scores(scores, micro)
    assert np.allclose(
        stats.bootstrap(own, seed=5, resamples=200), stats.bootstrap(usual, seed=5, resamples=200)
    )
    other = [Score(tuple(1 - x for x in score.correct), 0.0) for score in scores]
    assert stats.p_value(own, Scores(other, micro), seed=0) == pytest.approx(
        stats.p_value(usual, stats.sample_of(Counting(), other), seed=0)
    )


def test_p_value_of_few_items_is_exact() -> None:
    assert stats.p_value(shares([1.0] * 5), shares([0.0] * 5), seed=0) == 2 / 2**5
    assert stats.p_value(shares([1.0] * 5), shares([1.0] * 5), seed=0) == 1.0
    rng = np.random.default_rng(4)
    a, b = rng.random(8), rng.random(8)
    signs = list(itertools.product((1, -1), repeat=8))
    larger = sum(abs(np.dot(sign, a - b)) >= abs((a - b).sum()) - 1e-9 for sign in signs)
    found = stats.p_value(shares(list(a)), shares(list(b)), seed=0)
    assert found == pytest.approx(larger / len(signs))


def test_p_value_of_many_items_is_drawn() -> None:
    rng = np.random.default_rng(5)
    gains = rng.normal(0.3, 1, size=16)
    signs = 1 - 2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1)
    exact = float(np.mean(np.abs(signs @ gains) >= abs(gains.sum()) - 1e-9))
    found = stats.p_value(shares(list(gains)), shares([0.0] * 16), seed=0)
    # four standard errors of a share of 10,000 draws
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 10_000))


def test_the_seed_decides() -> None:
    sample = shares(list(np.random.default_rng(6).random(9)))
    assert stats.estimate(sample, seed=1) == stats.estimate(sample, seed=1)
    assert stats.estimate(sample, seed=1) != stats.estimate(sample, seed=2)


@pytest.mark.parametrize(
    ("tokens", "period"),
    [
        ([], 0),
        (list(range(200)), 0),
        ([7] * 15, 0),
        ([7] * 16, 1),
        ([1, 2, 3, *[4, 5] * 8], 2),
        ([*range(50), *list(range(32)) * 4], 32),
        ([*range(50), *list(range(33)) * 4], 0),
        ([*[4, 5] * 20, 9], 0),
        (list(range(20)) * 3, 0),
    ],
)
def test_loops_are_cycles_at_the_end(tokens: list[int], period: int) -> None:
    assert find_loop(tokens) == period
