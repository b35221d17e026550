"""Positions in equal bins, for pictures and terminals that have fewer columns than tokens."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def width_of(n: int, most: int) -> int:
    """Return how many positions a bin has, so that `n` positions take at most `most` bins."""
    return max(1, math.ceil(n / most))


def summed(values: Floats, per: int) -> Floats:
    """Return the sums over bins of `per` positions along the last axis; the last may have fewer."""
    starts = np.arange(0, values.shape[-1], per)
    return np.asarray(np.add.reduceat(values, starts, axis=-1), np.float64)


def means(values: Floats, per: int) -> Floats:
    """Return the means over the values of each bin that are not NaN; NaN for a bin without any."""
    known = ~np.isnan(values)
    count = summed(known.astype(np.float64), per)
    total = summed(np.where(known, values, 0.0), per)
    empty = count == 0
    return np.where(empty, np.nan, total / np.where(empty, 1, count))
