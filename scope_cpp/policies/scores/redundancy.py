"""How much a key repeats others: the redundancy of R-KV."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scope_cpp.policies.base import FloatArray
from scope_cpp.policies.scores.ranking import as_float32, over_heads

ALIKE = 0.5
"""Cosine above which two keys count as alike."""

BLOCK = 1024
"""Keys that are compared with all others at once: bounds the memory, not the result."""


def less_redundant(scores: FloatArray, keys: FloatArray, share: float) -> FloatArray:
    """(1 − share)·s − share·r, with the redundancy r of R-KV (https://arxiv.org/abs/2505.24133).

    Parameters
    ----------
    scores
        float32 (L, H, n): shares of the head's attention, in the order of positions.
    keys
        float32 (L, H, n, head size), rotated; of whole cells (`scores` of one head) those of all
        heads, over which r is averaged.
    share
        1 − λ of the paper.
    """
    flat = keys.reshape(-1, *keys.shape[2:])
    repeated = np.stack([redundancy(head) for head in flat]).reshape(keys.shape[:3])
    return as_float32((1 - share) * scores - share * over_heads(repeated, scores))


def redundancy(keys: FloatArray) -> NDArray[np.float64]:
    """Softmax over rows of the mean cosine to the other keys of a head: (n,) of (n, head size).

    Of the keys that are like a given one, the latest is spared: its cosine to that one counts
    as 0.
    """
    n = len(keys)
    norms = np.linalg.norm(keys, axis=-1, keepdims=True)
    unit = np.divide(keys, norms, out=np.zeros_like(keys), where=norms > 0)
    mean = np.zeros(n)
    for start in range(0, n, BLOCK):
        cosine = unit[start : start + BLOCK] @ unit.T
        own = np.arange(len(cosine))
        cosine[own, start + own] = 0
        alike = cosine > ALIKE
        latest = n - 1 - np.argmax(alike[:, ::-1], axis=-1)
        rows = np.flatnonzero(alike.any(axis=-1))
        cosine[rows, latest[rows]] = 0
        mean += cosine.sum(axis=0, dtype=np.float64) / n
    raised = np.exp(mean - mean.max())
    softmax: NDArray[np.float64] = raised / raised.sum()
    return softmax
