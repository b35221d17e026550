"""Scores that neighbouring tokens share: pooled over a kernel, or over spans.

All functions take and return float32 (L, H, n), finite and in the order of positions. Neighbours
are neighbours in the text: rows that are side by side because what was between them was evicted
do not count.
"""

from __future__ import annotations

import numpy as np

from scope_cpp.policies.base import BoolArray, FloatArray, IntArray

POOLINGS = ("avg", "max")
# each neighbour takes a pass over all scores
LARGEST_KERNEL = 255


def smoothed(
    scores: FloatArray, pos: IntArray, kernel: int, by: str, valid: BoolArray | None = None
) -> FloatArray:
    """Mean or maximum over the rows within `kernel` // 2 tokens of each row.

    As SnapKV pools the prompt (https://arxiv.org/abs/2404.14469). Rows that are not there, or
    not `valid`, do not count.
    """
    reach = kernel // 2
    pad = ((0, 0), (0, 0), (reach, reach))
    n = scores.shape[-1]
    values = np.pad(scores.astype(np.float64), pad)
    there = np.pad(np.ones_like(pos, np.bool_) if valid is None else valid, pad)
    where = np.pad(pos, pad)
    highest = np.full(scores.shape, -np.finfo(np.float32).max, np.float64)
    summed, counted = np.zeros(scores.shape), np.zeros(scores.shape, np.int32)
    for start in range(2 * reach + 1):
        at = (..., slice(start, start + n))
        near = there[at] & (np.abs(where[at] - pos) <= reach)
        if by == "max":
            np.maximum(highest, values[at], out=highest, where=near)
        else:
            summed += np.where(near, values[at], 0.0)
            counted += near
    pooled = highest if by == "max" else summed / np.maximum(counted, 1)
    return pooled.astype(np.float32)


def spanned(scores: FloatArray, pos: IntArray, span: int, start: int) -> FloatArray:
    """Mean over spans of `span` tokens, so that a span stays or goes as a whole.

    As the blocks of OpenVINO GenAI's cache eviction. Spans are counted from position `start`,
    in both directions; rows that are not there do not count.
    """
    number = (pos - start) // span
    first = number.min()
    means = np.empty_like(scores)
    for head in np.ndindex(scores.shape[:2]):
        bins = number[head] - first
        sums = np.bincount(bins, weights=scores[head])
        means[head] = (sums / np.maximum(np.bincount(bins), 1))[bins]
    return means
