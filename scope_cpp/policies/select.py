"""The best rows of every head, without a full sort."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scope_cpp.policies.base import BoolArray, FloatArray, IntArray, View

FINITE = np.finfo(np.float32).max


def count(marks: BoolArray) -> NDArray[np.intp]:
    """Marked rows of every head: (L, H) of (L, H, n)."""
    # of bytes to short numbers: several times as fast as counting, or a sum of truth values
    numbers = np.ascontiguousarray(marks).view(np.uint8)
    return numbers.sum(axis=-1, dtype=np.uint32).astype(np.intp)


def top(key: NDArray[Any], pos: IntArray, k: int) -> BoolArray:
    """Mark the `k` largest keys of every head; of equal keys the later position wins.

    Parameters
    ----------
    key
        (L, H, n), any ordered dtype, no NaN.
    pos
        int32 (L, H, n), distinct within a head, so that the order of rows does not matter.
    k
        Rows to mark, at least 1; all rows if there are no more than that.
    """
    n = key.shape[-1]
    if k >= n:
        return np.ones(key.shape, dtype=np.bool_)
    threshold = np.partition(key, n - k, axis=-1)[..., n - k, None]
    keep: BoolArray = key >= threshold
    surplus = count(keep) > k
    if surplus.any():
        keep[surplus] = _break_ties(key[surplus], threshold[surplus], pos[surplus], k)
    return keep


def _break_ties(key: NDArray[Any], threshold: NDArray[Any], pos: IntArray, k: int) -> BoolArray:
    """As `top`, for (heads, n) whose rows at the threshold are more than there is room for."""
    above = key > threshold
    tied = np.where(key == threshold, pos, -1)
    room = k - np.count_nonzero(above, axis=-1)
    earliest = np.take_along_axis(np.sort(tied, axis=-1), (key.shape[-1] - room)[:, None], axis=-1)
    kept: BoolArray = above | (tied >= earliest)
    return kept


def finite(scores: FloatArray) -> FloatArray:
    """Scores that can be compared: NaN and -inf become the lowest number, +inf the highest."""
    if np.isfinite(scores).all():
        return scores
    return np.nan_to_num(scores, nan=-FINITE, posinf=FINITE, neginf=-FINITE)


def first_and_last(view: View, n_first: int, keep: int) -> BoolArray:
    """Keep the rows of the first `n_first` tokens and the latest others, `keep` rows per head.

    The first ones give way where there is no room for all of them and the newest row.
    """
    first = view.pos < min(n_first, keep - 1)
    return top(np.where(first, np.iinfo(np.int32).max, view.pos), view.pos, keep)


def keep_best(view: View, scores: FloatArray, safe: BoolArray, keep: int) -> BoolArray:
    """Keep the `safe` rows and, up to `keep` rows per head, those with the highest scores.

    More safe rows than `keep` lose their earliest ones, so the newest row always stays.
    """
    n_safe = count(safe)
    room = keep - int(n_safe.flat[0])
    if room < 0 or (n_safe != n_safe.flat[0]).any():
        key = np.where(safe, np.float32(np.inf), finite(scores))
        return top(key, view.pos, keep)
    kept = safe.copy()
    if room > 0:
        # as many rows of every head compete: only these need to be looked at
        rest = ~safe
        shape = (*safe.shape[:2], -1)
        key = finite(scores[rest].reshape(shape))
        kept[rest] = top(key, view.pos[rest].reshape(shape), room).reshape(-1)
    return kept
