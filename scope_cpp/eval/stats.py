"""How sure a score is: bootstrap intervals, paired differences, and a permutation test.

What is drawn are items, each with all its questions: questions of one item are not independent.
Two rows are drawn together, item by item, so that a difference is that of the same items.

Intervals are percentile intervals (B. Efron, R. Tibshirani, "An Introduction to the Bootstrap",
1993, chapter 13); p-values those of the permutation test of paired samples, in which each item's
two scores change places or not, with one added to both counts where changes are drawn (B. Phipson,
G. Smyth, https://arxiv.org/abs/1603.05766).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scope_cpp.eval.task import Score, Task

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Marks = NDArray[np.bool_]

RESAMPLES = 10_000
CONFIDENCE = 0.95

_BLOCK = 500_000  # items that are drawn at once
_MOST_EXACT = 13  # items up to which all changes of place are counted: 2 ** 13 < RESAMPLES

Interval = tuple[float, float]


class Sample(Protocol):
    """The scores of one row, item by item."""

    def __len__(self) -> int: ...

    def totals(self, index: Ints) -> Floats:
        """Totals of draws: (draws, n) numbers of items to (draws,)."""
        ...

    def exchanged(self, other: Sample, swap: Marks) -> Floats:
        """Totals after items changed places with `other`'s: (draws, n) marks to (draws,)."""
        ...


@dataclass(frozen=True)
class Shares:
    """Items whose total is the sum of `right` over the sum of `asked`, both float64 (n,)."""

    right: Floats
    asked: Floats

    def __len__(self) -> int:
        return len(self.right)

    def totals(self, index: Ints) -> Floats:
        """See `Sample`."""
        return _ratio(self.right[index].sum(axis=1), self.asked[index].sum(axis=1))

    def exchanged(self, other: Sample, swap: Marks) -> Floats:
        """See `Sample`."""
        assert isinstance(other, Shares)
        right = np.where(swap, other.right, self.right).sum(axis=1)
        return _ratio(right, np.where(swap, other.asked, self.asked).sum(axis=1))


@dataclass(frozen=True)
class Scores:
    """Items whose total a task computes in a way of its own."""

    scores: Sequence[Score]
    total: Callable[[Sequence[Score]], float]

    def __len__(self) -> int:
        return len(self.scores)

    def totals(self, index: Ints) -> Floats:
        """See `Sample`."""
        return np.array([self.total([self.scores[i] for i in draw]) for draw in index])

    def exchanged(self, other: Sample, swap: Marks) -> Floats:
        """See `Sample`."""
        assert isinstance(other, Scores)
        pairs = list(zip(self.scores, other.scores, strict=True))
        return np.array([self.total([p[s] for p, s in zip(pairs, row, strict=True)])
                         for row in swap.astype(int)])  # fmt: skip


def sample_of(task: Task, scores: Sequence[Score]) -> Sample:
    """Return scores in the form that is drawn from fastest."""
    if type(task).total is not Task.total:
        return Scores(tuple(scores), task.total)
    if task.per_sample:
        return Shares(np.array([score.value for score in scores], float), np.ones(len(scores)))
    right = np.array([sum(score.correct) for score in scores], float)
    return Shares(right, np.array([len(score.correct) for score in scores], float))


def bootstrap(sample: Sample, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Return totals of samples of the same size, drawn with replacement: float64 (resamples,).

    Samples of as many items are drawn alike for the same seed, so that differences are paired.
    """
    n, rng = len(sample), np.random.default_rng(seed)
    blocks = (rng.integers(0, n, (size, n)) for size in _blocks(resamples, n))
    return np.concatenate([sample.totals(index) for index in blocks])


def interval(totals: Floats) -> Interval:
    """Return the percentile interval of `CONFIDENCE`."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(totals, [tail, 100 - tail])
    return float(low), float(high)


def total(sample: Sample) -> float:
    """Return the total of the items as they are."""
    return float(sample.totals(np.arange(len(sample))[None])[0])


@dataclass(frozen=True)
class Estimate:
    """A total, or a difference of two, and its interval; none for a single item."""

    value: float
    ci: Interval | None

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {"value": self.value, "ci": None if self.ci is None else list(self.ci)}


def estimate(sample: Sample, seed: int) -> Estimate:
    """Return the total of a sample of at least one item."""
    spread = interval(bootstrap(sample, seed)) if len(sample) > 1 else None
    return Estimate(total(sample), spread)


def difference(one: Sample, other: Sample, seed: int) -> Estimate:
    """Return `one`'s total less `other`'s, of the same items in the same order."""
    assert len(one) == len(other)
    spread = None
    if len(one) > 1:
        spread = interval(bootstrap(one, seed) - bootstrap(other, seed))
    return Estimate(total(one) - total(other), spread)


def p_value(one: Sample, other: Sample, seed: int, resamples: int = RESAMPLES) -> float:
    """Return how often a difference as large comes about if it does not matter which row is which.

    Two-sided. Of few items all changes of place are counted, of many `resamples` are drawn.
    """
    n, rng = len(one), np.random.default_rng(seed)
    seen = abs(total(one) - total(other)) - 1e-12
    if n <= _MOST_EXACT:
        marks = (np.arange(2**n)[:, None] >> np.arange(n)) & 1 == 1
        return float(np.mean(_differences(one, other, marks) >= seen))
    blocks = (rng.random((size, n)) < 0.5 for size in _blocks(resamples, n))
    larger = sum(int((_differences(one, other, marks) >= seen).sum()) for marks in blocks)
    return (1 + larger) / (1 + resamples)


def _differences(one: Sample, other: Sample, marks: Marks) -> Floats:
    return np.abs(one.exchanged(other, marks) - other.exchanged(one, marks))


def _blocks(resamples: int, n: int) -> Iterator[int]:
    size = max(1, _BLOCK // max(n, 1))
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _ratio(right: Floats, asked: Floats) -> Floats:
    """0 where nothing was asked, as `Task.total` has it."""
    return np.divide(right, asked, out=np.zeros_like(right), where=asked > 0)
