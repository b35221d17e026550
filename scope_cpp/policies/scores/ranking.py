"""What turns the scores of single rows into the numbers by which they compete.

All functions take and return float32 (L, H, n), finite and in the order of positions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scope_cpp.policies.base import FloatArray, IntArray

OVER = ("layer", "model")
BY = ("mean", "max")


def per_lifetime(scores: FloatArray, age: IntArray, power: float, decay: float) -> FloatArray:
    """Divide by the weight that the rule could have given in a row's lifetime, to a power.

    NORM_SUM of OpenVINO GenAI's cache eviction: score / age. With a decay d the sum of `age`
    queries is at most 1 + d + … = (1 − d^age) / (1 − d).

    Parameters
    ----------
    age
        Queries since the row's token came, at least 1.
    power
        1 divides by all of it, 0 by nothing.
    """
    most = age if decay == 1 else (1 - decay ** age.astype(np.float64)) / (1 - decay)
    divided: FloatArray = (scores / most**power).astype(np.float32)
    return divided


def by_value_norm(scores: FloatArray, values: FloatArray, power: float) -> FloatArray:
    """Score times ‖V‖₁ to a power: VATP (https://arxiv.org/abs/2406.12335).

    Of whole cells (`scores` of one head) the norm is the mean over all heads.
    """
    norms = over_heads(np.abs(values).sum(axis=-1, dtype=np.float64), scores)
    return as_float32(scores * norms**power)


def shares(scores: FloatArray) -> FloatArray:
    """Scores as shares of the head's sum, where that is positive."""
    return as_float32(scores / total(scores))


def mixed(own: FloatArray, pos: IntArray, share: float, over: str, by: str) -> FloatArray:
    """Mix a head's own shares with those of the same tokens in the other heads.

    (1 − share)·own + share·p/Σp, where p pools the heads of a layer or of the model, by their
    mean or maximum. A head that does not hold a token counts as 0 in the mean.
    """
    n_layers = len(own)
    together = 1 if over == "layer" else n_layers
    groups = [slice(first, first + together) for first in range(0, n_layers, together)]
    pooled = np.concatenate([pool_by_position(own[some], pos[some], by) for some in groups])
    return as_float32((1 - share) * own + share * pooled / total(pooled))


def pool_by_position(scores: FloatArray, pos: IntArray, by: str) -> NDArray[np.float64]:
    """Mean or maximum over all heads of the score that a position has, for every row."""
    present = np.zeros(int(pos.max()) + 1, np.bool_)
    present[pos] = True
    place = (np.cumsum(present) - 1)[pos]
    pooled = np.full(np.count_nonzero(present), -np.inf if by == "max" else 0.0)
    for head in np.ndindex(scores.shape[:2]):
        # positions are distinct within a head, so no place is hit twice
        at = place[head]
        before, now = pooled[at], scores[head]
        pooled[at] = np.maximum(before, now) if by == "max" else before + now
    n_heads = 1 if by == "max" else scores.shape[0] * scores.shape[1]
    return pooled[place] / n_heads


def total(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Sum of every head's scores, (L, H, 1); 1 where it is not positive."""
    summed = scores.sum(axis=-1, keepdims=True, dtype=np.float64)
    return np.where(summed > 0, summed, 1.0)


def over_heads(per_head: NDArray[np.float64], scores: FloatArray) -> NDArray[np.float64]:
    """Numbers of every head as they are, or their mean where `scores` has whole cells."""
    if per_head.shape == scores.shape:
        return per_head
    return per_head.mean(axis=(0, 1), keepdims=True)


def as_float32(scores: NDArray[np.float64]) -> FloatArray:
    """Back to float32, within its range."""
    most = np.finfo(np.float32).max
    return np.clip(scores, -most, most).astype(np.float32)
